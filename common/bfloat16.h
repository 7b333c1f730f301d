// bfloat16: the upper half of a float. KV rows are stored in it.
#pragma once

#include <bit>
#include <cstdint>

namespace tailor {

struct BFloat16 {
  uint16_t bits;
  friend bool operator==(BFloat16, BFloat16) = default;
};
static_assert(sizeof(BFloat16) == 2);

// Round to nearest, ties to even; NaN stays NaN (quiet). Equal to what VCVTNEPS2BF16 gives for
// normal inputs (that instruction flushes subnormals to zero).
inline BFloat16 ToBFloat16(float value) {
  uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {
    return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
  }
  bits += 0x7fffu + ((bits >> 16) & 1u);
  return {static_cast<uint16_t>(bits >> 16)};
}

inline float ToFloat(BFloat16 value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16);
}

}  // namespace tailor
