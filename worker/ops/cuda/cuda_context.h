// What the parts of one CUDA backend share: device, stream, pool, the step being recorded, and the
// way small arguments travel. One thread at a time.
#pragma once

#include <array>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "common/cuda/handles.h"
#include "common/matrix_view.h"
#include "worker/ops/cuda/check_cuda.h"
#include "worker/ops/cuda/device_pool.h"
#include "worker/ops/cuda/kernels.h"
#include "worker/ops/cuda/module_abi.h"
#include "worker/ops/cuda/step_recorder.h"

namespace tailor::cuda {

// Arguments of kernels that live in memory: copied to page-locked memory, then to the device, in
// stream order. A section is used again once the copies out of it have ended.
class ArgumentRing {
 public:
  static constexpr int64_t kSectionBytes = int64_t{2} << 20;
  static constexpr int kSections = 4;

  static absl::StatusOr<ArgumentRing> Make(std::byte* device);
  static constexpr int64_t DeviceBytes() { return kSectionBytes * kSections; }

  const std::byte* Put(std::span<const std::byte> bytes, cudaStream_t stream);

 private:
  CudaPinned host_;
  std::byte* device_ = nullptr;
  std::array<CudaEvent, kSections> copied_;
  int section_ = 0;
  int64_t used_ = 0;  // of the section
};

// Device memory for one op at a time; grows to what the largest needed, so that a step allocates
// only the first time. Ops of one stream or lane never overlap, so one piece serves all.
class Scratch {
 public:
  // Floats that stay until the next Begin.
  void Begin() { used_ = 0; }
  template <typename T>
  T* Take(int64_t count, class CudaContext& context) {
    return reinterpret_cast<T*>(TakeBytes(count * static_cast<int64_t>(sizeof(T)), context));
  }

 private:
  std::byte* TakeBytes(int64_t bytes, class CudaContext& context);
  std::vector<std::byte*> pieces_;
  std::vector<int64_t> sizes_;
  size_t used_ = 0;  // pieces
};

class CudaContext {
 public:
  static absl::StatusOr<std::unique_ptr<CudaContext>> Make(const CudaModuleOptions& options);

  // The calling thread works on this device from now on.
  void Bind() const;
  // What ops are enqueued on; where a step is being recorded, the recorder.
  CudaStreamRef stream() const {
    return CudaStreamRef(stream_.get(), recorder_->recording() ? recorder_.get() : nullptr);
  }
  StepRecorder& recorder() { return *recorder_; }
  int device() const { return device_; }
  int multiprocessors() const { return multiprocessors_; }
  DevicePool& pool() { return *pool_; }
  Scratch& scratch() { return scratch(recorder_->lane()); }
  Scratch& scratch(int lane);
  // Where the device will find the values, for the op that is about to be enqueued.
  template <typename T>
  const T* Put(std::span<const T> values) {
    const std::span<const std::byte> bytes = std::as_bytes(values);
    const std::byte* at = recorder_->Put(bytes);
    if (at == nullptr) at = arguments_.Put(bytes, stream().Direct());
    return reinterpret_cast<const T*>(at);
  }
  // Room of kStageBytes for rows of the host.
  static constexpr int64_t kStageBytes = int64_t{16} << 20;
  std::byte* stage() const { return stage_; }
  void Synchronize() const;

 private:
  int device_ = 0, multiprocessors_ = 0;
  CudaMemory memory_;
  std::unique_ptr<DevicePool> pool_;
  CudaStream stream_;
  std::unique_ptr<StepRecorder> recorder_;
  ArgumentRing arguments_;
  std::deque<Scratch> scratch_;  // [lanes]
  std::byte* stage_ = nullptr;
};

template <typename T>
Rows<T> ToRows(MatrixView<T> view) {
  return {view.data, view.stride, static_cast<int32_t>(view.rows), static_cast<int32_t>(view.cols)};
}

}  // namespace tailor::cuda
