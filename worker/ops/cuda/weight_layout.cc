#include "worker/ops/cuda/weight_layout.h"

#include "common/status.h"

namespace tailor::cuda {
namespace {

struct Format {
  int32_t piece_values;
  int64_t scale_bytes;  // in front of each block of the file, and in ours
};

Format FormatOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return {4, 0};
    case DType::kF16:
    case DType::kBF16:
      return {8, 0};
    case DType::kQ8_0:
      return {16, 2};
    case DType::kQ4_0:
      return {32, 2};
    case DType::kQ4_1:
      return {32, 4};
    case DType::kQ4_K:
    case DType::kQ6_K:
      break;
  }
  return {};
}

void PackBlocks(const TensorView& tensor, const WeightLayout& layout, std::byte* out) {
  const int64_t block_bytes = BlockBytes(tensor.dtype);
  const int64_t code_bytes = block_bytes - layout.scale_bytes;
  const int64_t blocks = tensor.rows * (tensor.cols / 32);
  std::byte* scales = out + layout.ScalesOffset();
  for (int64_t i = 0; i < blocks; ++i) {
    const std::byte* block = tensor.bytes.data() + i * block_bytes;
    std::memcpy(scales + i * layout.scale_bytes, block, layout.scale_bytes);
    std::memcpy(out + i * code_bytes, block + layout.scale_bytes, code_bytes);
  }
}

}  // namespace

WeightLayout WeightLayout::Of(DType dtype, int64_t rows, int64_t cols) {
  const Format format = FormatOf(dtype);
  return {.dtype = dtype,
          .rows = rows,
          .cols = cols,
          .piece_values = format.piece_values,
          .pieces = (cols + format.piece_values - 1) / format.piece_values,
          .scale_bytes = format.scale_bytes};
}

absl::StatusOr<std::vector<std::byte>> PackForDevice(const TensorView& tensor) {
  TS_ASSIGN_OR_RETURN(const int64_t want, TensorBytes(tensor.dtype, tensor.rows, tensor.cols));
  if (static_cast<int64_t>(tensor.bytes.size()) != want) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor has ", tensor.bytes.size(), " bytes, its shape needs ", want));
  }
  if (FormatOf(tensor.dtype).piece_values == 0) {
    return absl::UnimplementedError(
        absl::StrCat("CUDA backend: format is ", std::string(DTypeName(tensor.dtype)),
                     ", supported are F32, F16, BF16, Q8_0, Q4_0 and Q4_1"));
  }
  const WeightLayout layout = WeightLayout::Of(tensor.dtype, tensor.rows, tensor.cols);
  std::vector<std::byte> out(layout.Bytes());
  if (layout.scale_bytes > 0) {
    PackBlocks(tensor, layout, out.data());
    return out;
  }
  const int64_t row_bytes = want / tensor.rows;
  for (int64_t r = 0; r < tensor.rows; ++r) {
    std::memcpy(out.data() + r * layout.pieces * kPieceBytes, tensor.bytes.data() + r * row_bytes,
                row_bytes);
  }
  return out;
}

}  // namespace tailor::cuda
