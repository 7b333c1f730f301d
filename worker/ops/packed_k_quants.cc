#include "worker/ops/packed_k_quants.h"

#include <cstring>

#include "common/status.h"
#include "worker/ops/half.h"
#include "worker/ops/packed_weight.h"

namespace tailor {
namespace {

constexpr int64_t kSteps = kSuperBlockInputs / kBlockInputs;

const uint8_t* Bytes(const std::byte* bytes) { return reinterpret_cast<const uint8_t*>(bytes); }

void CopyHalf(const std::byte* from, int lane, std::byte* to) {
  std::memcpy(to + lane * 2, from, 2);
}

// codes(k) for k below 32 -> 16 bytes of two, one in every 16th byte.
template <typename Codes>
void PackNibbles(Codes codes, uint8_t* out) {
  for (int pair = 0; pair < kBlockInputs / 2; ++pair) {
    out[pair * kLanes] =
        static_cast<uint8_t>((codes(2 * pair) & 15) | (codes(2 * pair + 1) & 15) << 4);
  }
}

// File: d, dmin, 12 bytes of scales, then 32 bytes for each two steps, low halves first.
void PackQ4K(const std::byte* file, int lane, std::byte* packed) {
  CopyHalf(file, lane, packed);
  CopyHalf(file + 2, lane, packed + PackedQ4K::kMin);
  for (int i = 0; i < 12; ++i) packed[PackedQ4K::kScales + i * kLanes + lane] = file[4 + i];
  for (int64_t step = 0; step < kSteps; ++step) {
    const uint8_t* pairs = Bytes(file) + 16 + step / 2 * 32;
    const int shift = step % 2 == 0 ? 0 : 4;
    PackNibbles([=](int k) { return pairs[k] >> shift; }, reinterpret_cast<uint8_t*>(packed) +
                                                              PackedQ4K::kCodes +
                                                              step * PackedQ4K::kStepBytes + lane);
  }
}

// File: low[128], high[64], scales[16], d. Of each four steps the first two have the low halves of
// 64 bytes of `low`, the last two the high ones; step r of four the bits at 2 r of 32 of `high`.
void PackQ6K(const std::byte* file, int lane, std::byte* packed) {
  CopyHalf(file + 208, lane, packed);
  for (int i = 0; i < 16; ++i) packed[PackedQ6K::kScales + i * kLanes + lane] = file[192 + i];
  for (int64_t step = 0; step < kSteps; ++step) {
    const uint8_t* low = Bytes(file) + step / 4 * 64 + step % 2 * 32;
    const uint8_t* high = Bytes(file) + 128 + step / 4 * 32;
    const int low_shift = step % 4 < 2 ? 0 : 4, high_shift = static_cast<int>(step % 4 * 2);
    uint8_t* out = reinterpret_cast<uint8_t*>(packed) + PackedQ6K::kCodes +
                   step * PackedQ6K::kStepBytes + lane;
    PackNibbles([=](int k) { return low[k] >> low_shift; }, out);
    for (int four = 0; four < kBlockInputs / 4; ++four) {
      int quarters = 0;
      for (int i = 0; i < 4; ++i) quarters |= (high[4 * four + i] >> high_shift & 3) << (2 * i);
      out[PackedQ6K::kHighInStep + four * kLanes] = static_cast<uint8_t>(quarters);
    }
  }
}

float HalfAt(const std::byte* packed, int lane) {
  uint16_t half;
  std::memcpy(&half, packed + lane * 2, sizeof(half));
  return HalfToFloat(half);
}

int Nibble(const uint8_t* step, int64_t k) {
  const int byte = step[k / 2 * kLanes];
  return k % 2 == 0 ? byte & 15 : byte >> 4;
}

float Q4KValue(const std::byte* packed, int lane, int64_t i) {
  const uint8_t* scales = Bytes(packed) + PackedQ4K::kScales + lane;
  const auto s = [&](int64_t row) { return scales[row * kLanes]; };
  const int64_t step = i / kBlockInputs;
  const int scale = step < 4 ? s(step) & 63 : (s(step + 4) & 15) | s(step - 4) >> 6 << 4;
  const int min = step < 4 ? s(step + 4) & 63 : s(step + 4) >> 4 | s(step) >> 6 << 4;
  const int code = Nibble(Bytes(packed) + PackedQ4K::kCodes + step * PackedQ4K::kStepBytes + lane,
                          i % kBlockInputs);
  // Both products are exact (11 + 6 + 4 bits): one rounding, as in the kernels.
  return HalfAt(packed, lane) * static_cast<float>(scale * code) -
         HalfAt(packed + PackedQ4K::kMin, lane) * static_cast<float>(min);
}

float Q6KValue(const std::byte* packed, int lane, int64_t i) {
  const int64_t k = i % kBlockInputs;
  const auto scale = static_cast<int8_t>(packed[PackedQ6K::kScales + i / 16 * kLanes + lane]);
  const uint8_t* step =
      Bytes(packed) + PackedQ6K::kCodes + i / kBlockInputs * PackedQ6K::kStepBytes + lane;
  const int high = step[PackedQ6K::kHighInStep + k / 4 * kLanes] >> (k % 4 * 2) & 3;
  return HalfAt(packed, lane) * static_cast<float>(scale * ((Nibble(step, k) | high << 4) - 32));
}

}  // namespace

void PackKBlock(DType dtype, const std::byte* file, int lane, std::byte* packed) {
  if (dtype == DType::kQ4_K) return PackQ4K(file, lane, packed);
  TS_CHECK(dtype == DType::kQ6_K);
  PackQ6K(file, lane, packed);
}

float PackedKValue(DType dtype, const std::byte* packed, int lane, int64_t i) {
  return dtype == DType::kQ4_K ? Q4KValue(packed, lane, i) : Q6KValue(packed, lane, i);
}

}  // namespace tailor
