// A weight in device memory, in the order of weight_layout.h.
#pragma once

#include "worker/ops/backend.h"
#include "worker/ops/cuda/kernels.h"
#include "worker/ops/cuda/weight_layout.h"

namespace tailor::cuda {

class CudaWeight final : public WeightStorage {
 public:
  CudaWeight(DeviceBuffer memory, const WeightLayout& layout)
      : memory_(std::move(memory)),
        ref_{.codes = memory_.data(),
             .scales = memory_.data() + layout.ScalesOffset(),
             .type = static_cast<WeightType>(layout.dtype),
             .rows = static_cast<int32_t>(layout.rows),
             .cols = static_cast<int32_t>(layout.cols),
             .pieces = static_cast<int32_t>(layout.pieces),
             .scale_row_bytes = static_cast<int32_t>(layout.ScaleRowBytes())} {}

  static const WeightRef& Of(const Weight& weight) {
    return static_cast<const CudaWeight&>(*weight.storage).ref_;
  }
  int64_t bytes() const override { return memory_.bytes(); }

 private:
  DeviceBuffer memory_;
  WeightRef ref_;
};
static_assert(static_cast<int>(WeightType::kF32) == static_cast<int>(DType::kF32) &&
              static_cast<int>(WeightType::kBF16) == static_cast<int>(DType::kBF16) &&
              static_cast<int>(WeightType::kQ8_0) == static_cast<int>(DType::kQ8_0) &&
              static_cast<int>(WeightType::kQ4_1) == static_cast<int>(DType::kQ4_1) &&
              static_cast<int>(WeightType::kQ6_K) == static_cast<int>(DType::kQ6_K));

}  // namespace tailor::cuda
