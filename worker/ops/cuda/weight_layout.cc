#include "worker/ops/cuda/weight_layout.h"

#include "common/status.h"

namespace tailor::cuda {
namespace {

struct Format {
  int32_t piece_values;
  int64_t scale_bytes;   // of one block's scales, in the file and in ours, but for Q6_K's
  int64_t scale_values;  // of one block
};

constexpr int64_t kStep = 32, kStepsOfK = 8;         // codes of a piece, pieces of a K block
constexpr int64_t kLowBytes = 128, kHighBytes = 64;  // Q6_K
constexpr int64_t kRecordBytes = kHighBytes + 16 + 2;

Format FormatOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return {4, 0, 0};
    case DType::kF16:
    case DType::kBF16:
      return {8, 0, 0};
    case DType::kQ8_0:
      return {16, 2, 32};
    case DType::kQ4_0:
      return {32, 2, 32};
    case DType::kQ4_1:
      return {32, 4, 32};
    case DType::kQ4_K:
      return {32, 16, 256};
    case DType::kQ6_K:
      return {32, kRecordBytes, 256};
  }
  TS_CHECK(false);
  return {};
}

// Scales, then codes in both.
void PackBlock(const WeightLayout& layout, const std::byte* block, std::byte* codes,
               std::byte* scales) {
  std::memcpy(scales, block, layout.scale_bytes);
  std::memcpy(codes, block + layout.scale_bytes, BlockBytes(layout.dtype) - layout.scale_bytes);
}

// code(i) of 32 -> 16 bytes, codes i and i + 16 in byte i.
template <typename Code>
void PackNibbles(Code code, std::byte* piece) {
  for (int64_t i = 0; i < kStep / 2; ++i) {
    piece[i] = static_cast<std::byte>(code(i) | code(i + kStep / 2) << 4);
  }
}
int Nibble(std::byte pair, bool upper) {
  return static_cast<int>(upper ? pair >> 4 : pair & std::byte{15});
}

// File: d, dmin, 12 bytes of scales, then 32 bytes for each two steps, low halves first.
void PackQ4K(const WeightLayout& layout, const std::byte* block, std::byte* codes,
             std::byte* scales) {
  std::memcpy(scales, block, layout.scale_bytes);
  for (int64_t step = 0; step < kStepsOfK; ++step) {
    const std::byte* pairs = block + layout.scale_bytes + step / 2 * kStep;
    PackNibbles([&](int64_t i) { return Nibble(pairs[i], step % 2 == 1); },
                codes + step * kPieceBytes);
  }
}

// File: low[128], high[64], scales[16], d. Of each four steps the first two have the low halves of
// 64 bytes of `low`, the last two the high ones; step r of four the bits at 2 r of 32 of `high`.
void PackQ6K(const WeightLayout&, const std::byte* block, std::byte* codes, std::byte* record) {
  std::memset(record, 0, kHighBytes);
  std::memcpy(record + kHighBytes, block + kLowBytes + kHighBytes, kRecordBytes - kHighBytes);
  for (int64_t step = 0; step < kStepsOfK; ++step) {
    const std::byte* low = block + step / 4 * 64 + step % 2 * kStep;
    const std::byte* high = block + kLowBytes + step / 4 * kStep;
    PackNibbles([&](int64_t i) { return Nibble(low[i], step % 4 >= 2); },
                codes + step * kPieceBytes);
    for (int64_t i = 0; i < kStep; ++i) {
      const std::byte bits = high[i] >> static_cast<int>(step % 4 * 2) & std::byte{3};
      record[step * 8 + i / 4] |= bits << static_cast<int>(i % 4 * 2);
    }
  }
}

void PackBlocks(const TensorView& tensor, const WeightLayout& layout, std::byte* out) {
  const auto pack = tensor.dtype == DType::kQ4_K   ? PackQ4K
                    : tensor.dtype == DType::kQ6_K ? PackQ6K
                                                   : PackBlock;
  const int64_t block_bytes = BlockBytes(tensor.dtype);
  const int64_t code_bytes = block_bytes - layout.scale_bytes;
  const int64_t blocks = tensor.rows * (tensor.cols / layout.scale_values);
  std::byte* scales = out + layout.ScalesOffset();
  for (int64_t i = 0; i < blocks; ++i) {
    pack(layout, tensor.bytes.data() + i * block_bytes, out + i * code_bytes,
         scales + i * layout.scale_bytes);
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
          .scale_bytes = format.scale_bytes,
          .scale_values = format.scale_values};
}

absl::StatusOr<std::vector<std::byte>> PackForDevice(const TensorView& tensor) {
  TS_ASSIGN_OR_RETURN(const int64_t want, TensorBytes(tensor.dtype, tensor.rows, tensor.cols));
  if (static_cast<int64_t>(tensor.bytes.size()) != want) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor has ", tensor.bytes.size(), " bytes, its shape needs ", want));
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
