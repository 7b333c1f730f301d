// DeviceSelect over one CUDA backend's stream and scratch.
#pragma once

#include "worker/ops/cuda/cuda_context.h"
#include "worker/ops/cuda/device_select.h"

namespace tailor::cuda {

class CudaSelect final : public DeviceSelect {
 public:
  explicit CudaSelect(CudaContext* context) : context_(*context) {}
  void Select(const DeviceSelection& selection) override;
  void CopyIndex(std::span<const IndexPage> pages, const IndexStrides& strides, int32_t slices,
                 int32_t head_dim, std::span<std::byte* const> sketches) override;

 private:
  SelectWork TakeWork(const SelectTable& table);

  CudaContext& context_;
};

}  // namespace tailor::cuda
