// Weights as the CPU kernels read them: 16 outputs interleaved, so that one vector holds one
// input's weights of 16 outputs. The same bytes as in the file, reordered:
//
//   group   16 consecutive outputs (the last one padded with zeros)
//   F32, F16, BF16   [cols][16]
//   Q8_0    per 32 inputs: d [16] fp16, then int8 [32][16]              w = d * q
//   Q4_0    per 32 inputs: d [16] fp16, then nibbles [16][16]           w = d * (q - 8)
//   Q4_1    per 32 inputs: d [16], m [16] fp16, then nibbles [16][16]   w = d * q + m
//   Q4_K    per 256 inputs: d [16], dmin [16] fp16, the 12 bytes of scales [12][16], then per 32
//           inputs nibbles [16][16]                             w = d * scale * q - dmin * min
//   Q6_K    per 256 inputs: d [16] fp16, scales [16][16] int8, then per 32 inputs 4 low
//           bits as nibbles [16][16], 2 high bits as quarters [8][16]     w = d * scale * (q - 32)
//   nibbles: byte [pair][output], low half = input 2 * pair, high half = input 2 * pair + 1
//   quarters: byte [four][output], bits 2 i and 2 i + 1 = input 4 * four + i
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

inline constexpr int64_t kBlockInputs = 32;  // of Q8_0, Q4_0, Q4_1; of one step of all kernels
inline constexpr int64_t kSuperBlockInputs = 256;  // of the K formats

constexpr bool IsKFormat(DType dtype) { return dtype == DType::kQ4_K || dtype == DType::kQ6_K; }
constexpr bool IsBlockFormat(DType dtype) {
  return dtype == DType::kQ8_0 || dtype == DType::kQ4_0 || dtype == DType::kQ4_1 ||
         IsKFormat(dtype);
}

// Inputs of one block; 1 in the plain formats.
constexpr int64_t PackedBlockInputs(DType dtype) {
  return IsKFormat(dtype) ? kSuperBlockInputs : IsBlockFormat(dtype) ? kBlockInputs : 1;
}

// Bytes of one group's block.
constexpr int64_t PackedBlockBytes(DType dtype) {
  switch (dtype) {
    case DType::kF32: return kLanes * 4;
    case DType::kF16: return kLanes * 2;
    case DType::kBF16: return kLanes * 2;
    case DType::kQ8_0: return kLanes * (2 + 32);
    case DType::kQ4_0: return kLanes * (2 + 16);
    case DType::kQ4_1: return kLanes * (4 + 16);
    case DType::kQ4_K:
      return kLanes * (4 + 12 + 128);
    case DType::kQ6_K:
      return kLanes * (2 + 16 + 128 + 64);
  }
  return 0;
}

// Inside a block of a K format, whose codes come in steps of 32 inputs.
struct PackedQ4K {
  static constexpr int64_t kMin = 2 * kLanes, kScales = 4 * kLanes, kCodes = 16 * kLanes,
                           kStepBytes = 16 * kLanes;
};
struct PackedQ6K {
  static constexpr int64_t kScales = 2 * kLanes, kCodes = 18 * kLanes, kStepBytes = 24 * kLanes,
                           kHighInStep = 16 * kLanes;
};

// Where the block of input k begins in a group.
constexpr int64_t PackedOffset(DType dtype, int64_t k) {
  const int64_t block = IsKFormat(dtype)       ? k / kSuperBlockInputs
                        : IsBlockFormat(dtype) ? k / kBlockInputs
                                               : k;
  return block * PackedBlockBytes(dtype);
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
  float Value(const std::byte* block, int lane, int64_t within) const;

  DType dtype_ = DType::kF32;
  int64_t cols_ = 0, groups_ = 0;
  std::vector<std::byte> bytes_;
};

}  // namespace tailor
