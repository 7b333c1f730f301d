// DeviceSelect over one CUDA backend's stream and scratch.
#pragma once

#include "worker/ops/cuda/cuda_context.h"
#include "worker/ops/cuda/device_select.h"

namespace tailor::cuda {

class CudaSelect final : public DeviceSelect {
 public:
  explicit CudaSelect(CudaContext* context) : context_(*context) {}
  void Select(const DeviceSelection& selection) override;
  void SketchPage(const BFloat16* rows, const QuantizedPageShape& shape,
                  std::byte* sketch) override;

 private:
  CudaContext& context_;
};

}  // namespace tailor::cuda
