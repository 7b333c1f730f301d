// Weights as the CPU kernels read them: 16 outputs interleaved, so that one vector holds one input's
// weights of 16 outputs. The same bytes as in the file, reordered:
//
//   group   16 consecutive outputs (the last one padded with zeros)
//   F32, F16, BF16   [cols][16]
//   Q8_0    per 32 inputs: d [16] fp16, then int8 [32][16]              w = d * q
//   Q4_0    per 32 inputs: d [16] fp16, then nibbles [16][16]           w = d * (q - 8)
//   Q4_1    per 32 inputs: d [16], m [16] fp16, then nibbles [16][16]   w = d * q + m
//   nibbles: byte [pair][output], low half = input 2 * pair, high half = input 2 * pair + 1
//
// Source of the block formats: the GGUF quantization formats of ggml.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model_file/model_file.h"
#include "worker/ops/cpu_kernels.h"
#include "worker/ops/weight.h"

namespace tailor {

inline constexpr int64_t kBlockInputs = 32;

constexpr bool IsBlockFormat(DType dtype) {
  return dtype == DType::kQ8_0 || dtype == DType::kQ4_0 || dtype == DType::kQ4_1;
}

// Bytes of one group's 32 inputs (block formats) or of one input (the others).
constexpr int64_t PackedBlockBytes(DType dtype) {
  switch (dtype) {
    case DType::kF32: return kLanes * 4;
    case DType::kF16: return kLanes * 2;
    case DType::kBF16: return kLanes * 2;
    case DType::kQ8_0: return kLanes * (2 + 32);
    case DType::kQ4_0: return kLanes * (2 + 16);
    case DType::kQ4_1: return kLanes * (4 + 16);
  }
  return 0;
}

// Where input k of a group begins; k a multiple of 32 in block formats.
constexpr int64_t PackedOffset(DType dtype, int64_t k) {
  return PackedBlockBytes(dtype) * (IsBlockFormat(dtype) ? k / kBlockInputs : k);
}

class PackedWeight final : public WeightStorage {
 public:
  // Errors: InvalidArgument when cols is no multiple of the block or the bytes do not fit the shape.
  static absl::StatusOr<std::shared_ptr<const PackedWeight>> Pack(const TensorView& tensor);

  int64_t bytes() const override { return static_cast<int64_t>(bytes_.size()); }
  int64_t groups() const { return groups_; }
  WeightGroup group(int64_t index) const {
    return {dtype_, cols_, bytes_.data() + index * PackedOffset(dtype_, cols_)};
  }
  // One output's weights, dequantized: [cols]. For embedding look-ups.
  void Row(int64_t row, float* out) const;

 private:
  DType dtype_ = DType::kF32;
  int64_t cols_ = 0, groups_ = 0;
  std::vector<std::byte> bytes_;
};

}  // namespace tailor
