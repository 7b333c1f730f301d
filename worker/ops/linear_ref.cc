// The references that read weights: DequantizeRef, EmbedRef, MatMulRef, MatMulAddRef, SwiGluRef.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/status.h"
#include "worker/ops/half.h"
#include "worker/ops/reference.h"

namespace tailor {
namespace {

uint16_t Read16(const std::byte* bytes) {
  uint16_t value;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

double Q4KValue(const std::byte* block, int64_t i) {
  const auto* s = reinterpret_cast<const uint8_t*>(block) + 4;
  const int64_t j = i / 32;
  const int scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6 << 4);
  const int min = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6 << 4);
  const int byte = s[12 + j / 2 * 32 + i % 32];
  const int code = j % 2 == 0 ? byte & 15 : byte >> 4;
  return double{HalfToFloat(Read16(block))} * scale * code -
         double{HalfToFloat(Read16(block + 2))} * min;
}

double Q6KValue(const std::byte* block, int64_t i) {
  const auto* low = reinterpret_cast<const uint8_t*>(block) + i / 128 * 64;
  const auto* high = reinterpret_cast<const uint8_t*>(block) + 128 + i / 128 * 32;
  const int64_t r = i % 128 / 32, c = i % 32;
  const int low_bits = r < 2 ? low[r * 32 + c] & 15 : low[(r - 2) * 32 + c] >> 4;
  const int code = low_bits | (high[c] >> (2 * r) & 3) << 4;
  const auto scale = static_cast<int8_t>(block[192 + i / 16]);
  return double{HalfToFloat(Read16(block + 208))} * scale * (code - 32);
}

// Value `i` of one block. In double d * q + m is exact: fp16 has 11 bits between 2^-24 and 2^16.
double BlockValue(DType dtype, const std::byte* block, int64_t i) {
  if (dtype == DType::kF32) {
    float value;
    std::memcpy(&value, block, sizeof(value));
    return value;
  }
  if (dtype == DType::kF16) return HalfToFloat(Read16(block));
  if (dtype == DType::kBF16) return ToFloat(BFloat16{Read16(block)});
  if (dtype == DType::kQ4_K) return Q4KValue(block, i);
  if (dtype == DType::kQ6_K) return Q6KValue(block, i);
  const double d = HalfToFloat(Read16(block));
  if (dtype == DType::kQ8_0) return d * static_cast<int8_t>(block[2 + i]);
  const std::byte* nibbles = block + (dtype == DType::kQ4_1 ? 4 : 2);
  const int code = i < 16 ? static_cast<int>(nibbles[i] & std::byte{15})
                          : static_cast<int>(nibbles[i - 16] >> 4);
  if (dtype == DType::kQ4_0) return d * (code - 8);
  return d * code + HalfToFloat(Read16(block + 2));
}

double Dot(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

}  // namespace

std::vector<float> DequantizeRef(const TensorView& weight) {
  const int64_t per_block = BlockValues(weight.dtype), block_bytes = BlockBytes(weight.dtype);
  const int64_t count = weight.rows * weight.cols;
  TS_CHECK(weight.cols % per_block == 0);
  TS_CHECK(static_cast<int64_t>(weight.bytes.size()) == count / per_block * block_bytes);
  std::vector<float> values(count);
  for (int64_t i = 0; i < count; ++i) {
    const std::byte* block = weight.bytes.data() + i / per_block * block_bytes;
    values[i] = static_cast<float>(BlockValue(weight.dtype, block, i % per_block));
  }
  return values;
}

void EmbedRef(std::span<const TokenId> tokens, MatrixView<const float> embedding,
              MatrixView<float> x) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    const auto row = embedding.row(tokens[i]);
    std::copy(row.begin(), row.end(), x.row(static_cast<int64_t>(i)).begin());
  }
}

void MatMulRef(MatrixView<const float> x, MatrixView<const float> w, MatrixView<float> out) {
  for (int64_t r = 0; r < x.rows; ++r) {
    for (int64_t o = 0; o < w.rows; ++o) out(r, o) = static_cast<float>(Dot(x.row(r), w.row(o)));
  }
}

void MatMulAddRef(MatrixView<const float> x, MatrixView<const float> w, MatrixView<float> out) {
  for (int64_t r = 0; r < x.rows; ++r) {
    for (int64_t o = 0; o < w.rows; ++o) {
      out(r, o) = static_cast<float>(out(r, o) + Dot(x.row(r), w.row(o)));
    }
  }
}

void SwiGluRef(MatrixView<const float> x, MatrixView<const float> gate, MatrixView<const float> up,
               MatrixView<float> out) {
  for (int64_t r = 0; r < x.rows; ++r) {
    for (int64_t o = 0; o < gate.rows; ++o) {
      const double a = Dot(x.row(r), gate.row(o));
      out(r, o) = static_cast<float>(a / (1 + std::exp(-a)) * Dot(x.row(r), up.row(o)));
    }
  }
}

}  // namespace tailor
