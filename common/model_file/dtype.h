// Element formats of weights, as files store them. The quantized ones are GGUF's: blocks of 32
// values of one row behind an f16 scale (and, for Q4_1, an f16 minimum); in the K formats blocks of
// 256, in which every 32 or 16 values have a small integer scale of their own.
#pragma once

#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"

namespace tailor {

enum class DType { kF32, kF16, kBF16, kQ8_0, kQ4_0, kQ4_1, kQ4_K, kQ6_K };

// "F32", "Q4_1", ...
std::string_view DTypeName(DType dtype);

// Values per block (1 for the plain formats) and bytes per block.
int64_t BlockValues(DType dtype);
int64_t BlockBytes(DType dtype);

// Bytes of one row of `cols` values. Errors: InvalidArgument when cols is not positive, not a
// multiple of the format's block, or the size overflows.
absl::StatusOr<int64_t> RowBytes(DType dtype, int64_t cols);

// Bytes of a [rows][cols] tensor, row after row without padding. Errors: as RowBytes.
absl::StatusOr<int64_t> TensorBytes(DType dtype, int64_t rows, int64_t cols);

}  // namespace tailor
