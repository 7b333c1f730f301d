// How the index packs the keys of one page and channel: 128 codes of 4 bits in 64 bytes, in the
// order in which unpacking by halves of 16 bytes gives tokens in sequence on every SIMD width.
// ALGORITHM §3.4; kvstore/wire/format.md §3.
#pragma once

#include <cstdint>

#include "common/types.h"

namespace tailor {

inline constexpr int32_t kMaxCode = 15;
inline constexpr int32_t kCodeBytes = kPageTokens / 2;  // of one channel
static_assert(kPageTokens == 128);

// Token t lies in the low (t < 64) or high half of this byte.
constexpr int32_t CodeByte(int32_t t) { return ((t >> 3) & 3) * 16 + ((t >> 5) & 1) * 8 + (t & 7); }
constexpr int32_t CodeShift(int32_t t) { return (t >> 6) * 4; }
constexpr int32_t CodeOf(const uint8_t* codes, int32_t t) {
  return (codes[CodeByte(t)] >> CodeShift(t)) & kMaxCode;
}

}  // namespace tailor
