#include "worker/ops/packed_weight.h"

#include <cstring>

#include "common/bfloat16.h"
#include "common/status.h"
#include "worker/ops/half.h"
#include "worker/ops/packed_k_quants.h"

namespace tailor {
namespace {

// Bytes of one output's block, in the file.
int64_t FileBlockBytes(DType dtype) { return PackedBlockBytes(dtype) / kLanes; }
int64_t FileRowBytes(DType dtype, int64_t cols) { return PackedOffset(dtype, cols) / kLanes; }

// Nibble of input k in a ggml 4-bit block's 16 bytes: inputs 0-15 are the low halves.
uint8_t FileNibble(const uint8_t* quants, int k) {
  return k < 16 ? quants[k] & 15 : quants[k - 16] >> 4;
}

// Copies one file block of one output into lane `lane` of a packed block.
void PackBlock(DType dtype, const std::byte* file, int lane, std::byte* packed) {
  const auto* source = reinterpret_cast<const uint8_t*>(file);
  auto* target = reinterpret_cast<uint8_t*>(packed);
  if (!IsBlockFormat(dtype)) {
    const int64_t size = FileBlockBytes(dtype);
    std::memcpy(target + lane * size, source, size);
    return;
  }
  if (IsKFormat(dtype)) return PackKBlock(dtype, file, lane, packed);
  const int headers = dtype == DType::kQ4_1 ? 2 : 1;
  for (int h = 0; h < headers; ++h) {
    std::memcpy(target + (h * kLanes + lane) * 2, source + h * 2, 2);
  }
  const uint8_t* quants = source + headers * 2;
  uint8_t* out = target + headers * 2 * kLanes;
  if (dtype == DType::kQ8_0) {
    for (int k = 0; k < kBlockInputs; ++k) out[k * kLanes + lane] = quants[k];
    return;
  }
  for (int pair = 0; pair < kBlockInputs / 2; ++pair) {
    out[pair * kLanes + lane] = static_cast<uint8_t>(FileNibble(quants, 2 * pair) |
                                                     FileNibble(quants, 2 * pair + 1) << 4);
  }
}

template <typename T>
T ReadAt(const std::byte* bytes, int64_t index) {
  T value;
  std::memcpy(&value, bytes + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const PackedWeight>> PackedWeight::Pack(const TensorView& tensor) {
  if (const int64_t block = PackedBlockInputs(tensor.dtype); tensor.cols % block != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("weight has ", tensor.cols, " columns, blocks need a multiple of ", block));
  }
  const int64_t row_bytes = FileRowBytes(tensor.dtype, tensor.cols);
  if (static_cast<int64_t>(tensor.bytes.size()) != row_bytes * tensor.rows) {
    return absl::InvalidArgumentError(absl::StrCat("weight has ", tensor.bytes.size(),
                                                   " bytes, its shape needs ",
                                                   row_bytes * tensor.rows));
  }
  auto weight = std::make_shared<PackedWeight>();
  weight->dtype_ = tensor.dtype;
  weight->cols_ = tensor.cols;
  weight->groups_ = (tensor.rows + kLanes - 1) / kLanes;
  weight->bytes_.resize(weight->groups_ * PackedOffset(tensor.dtype, tensor.cols));
  const int64_t file_block = FileBlockBytes(tensor.dtype);
  const int64_t packed_block = PackedBlockBytes(tensor.dtype);
  for (int64_t row = 0; row < tensor.rows; ++row) {
    const std::byte* source = tensor.bytes.data() + row * row_bytes;
    std::byte* target =
        weight->bytes_.data() + row / kLanes * PackedOffset(tensor.dtype, tensor.cols);
    for (int64_t block = 0; block * file_block < row_bytes; ++block) {
      PackBlock(tensor.dtype, source + block * file_block, static_cast<int>(row % kLanes),
                target + block * packed_block);
    }
  }
  return weight;
}

void PackedWeight::Row(int64_t row, float* out) const {
  const std::byte* block = bytes_.data() + row / kLanes * PackedOffset(dtype_, cols_);
  const int lane = static_cast<int>(row % kLanes);
  const int64_t per_block = PackedBlockInputs(dtype_);
  for (int64_t k = 0; k < cols_; k += per_block, block += PackedBlockBytes(dtype_)) {
    for (int64_t i = 0; i < per_block; ++i) out[k + i] = Value(block, lane, i);
  }
}

float PackedWeight::Value(const std::byte* block, int lane, int64_t within) const {
  if (dtype_ == DType::kF32) return ReadAt<float>(block, lane);
  if (dtype_ == DType::kF16) return HalfToFloat(ReadAt<uint16_t>(block, lane));
  if (dtype_ == DType::kBF16) return ToFloat(ReadAt<BFloat16>(block, lane));
  if (IsKFormat(dtype_)) return PackedKValue(dtype_, block, lane, within);
  const float d = HalfToFloat(ReadAt<uint16_t>(block, lane));
  if (dtype_ == DType::kQ8_0) {
    return static_cast<float>(ReadAt<int8_t>(block + 2 * kLanes, within * kLanes + lane)) * d;
  }
  const bool has_min = dtype_ == DType::kQ4_1;
  const float m = has_min ? HalfToFloat(ReadAt<uint16_t>(block, kLanes + lane)) : -8.0f * d;
  const auto byte = ReadAt<uint8_t>(block + (has_min ? 4 : 2) * kLanes, within / 2 * kLanes + lane);
  return static_cast<float>(within % 2 == 0 ? byte & 15 : byte >> 4) * d + m;
}

}  // namespace tailor
