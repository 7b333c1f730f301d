// The doorbell on one CUDA stream: a kernel rings, the stream's own memory operation waits, or,
// where device or driver has none and in a recorded step, a kernel.
#pragma once

#include <optional>
#include <vector>

#include "common/cuda/stream_wait.h"
#include "worker/ops/cuda/cuda_context.h"
#include "worker/ops/doorbell.h"

namespace tailor::cuda {

class CudaDoorbell final : public DoorbellStream {
 public:
  // `context` outlives it.
  explicit CudaDoorbell(CudaContext* context);

  absl::StatusOr<std::span<std::byte>> Shared(int64_t bytes) override;
  void Ring(std::span<const float> q, const DoorbellMemory& memory, uint64_t number) override;
  void Await(const DoorbellMemory& memory, uint64_t number) override;

 private:
  CudaContext* const context_;
  std::optional<CudaStreamWait> wait_;  // absent: a kernel waits
  std::vector<CudaPinned> shared_;
};

}  // namespace tailor::cuda
