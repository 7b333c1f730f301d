// Selection on a device, operation by operation as kvstore/select does it: the same scores bit for
// bit from the same 4-bit index, the same tokens under the same tie rule (ties to the lower token).
#pragma once

#include "worker/ops/cuda/page_bits.h"

namespace tailor::cuda {

inline constexpr int kIndexLanes = 16;  // kLanes of kvstore/select/kernels.h: the lanes sums go by
inline constexpr int kMaxIndexCode = 15;
inline constexpr float kLog2E = 1.44269504f;

// What ranks a channel: |query| * kmax, NaN last.
TS_HD float Magnitude(float value) { return BitsFloat(FloatBits(value) & 0x7fffffffu); }
TS_HD float Importance(float query, float kmax) {
  const float value = MulRounded(Magnitude(query), kmax);
  return value >= 0.0f ? value : -1.0f;
}
// Whether channel a comes before b among the critical ones: of larger importance, of equal ones the
// lower.
TS_HD bool IsMoreCritical(float importance_a, int32_t a, float importance_b, int32_t b) {
  return importance_a != importance_b ? importance_a > importance_b : a < b;
}

// The largest |weight| with which no sum of weight * code passes an int16.
TS_HD int32_t IndexWeightLimit(int32_t channels) {
  const int32_t limit = 32767 / (kMaxIndexCode * (channels + channels % 2));
  return limit < 1 ? 1 : limit > 127 ? 127 : limit;
}
// |q * scale|; NaN stays.
TS_HD float WeightSize(float q, float scale) {
  const float weight = MulRounded(q, scale), negative = MulRounded(weight, -1.0f);
  return weight > negative ? weight : negative;
}
// round_half_even(q * scale * inverse) within +-top; NaN is top.
TS_HD int8_t RoundedWeight(float q, float scale, float inverse, float top) {
  float weight = MulRounded(MulRounded(q, scale), inverse);
  weight = weight < top ? weight : top;
  weight = weight > -top ? weight : -top;
  return static_cast<int8_t>(FloatBits(AddRounded(weight, 12582912.0f)));  // 1.5 * 2^23
}

// 64 bytes of a channel's codes are 16 words; in the low (half 0) or high half of its bytes a word
// has four tokens in sequence, and this is the first.
TS_HD int32_t FirstTokenOfWord(int32_t word, int32_t half) {
  return word / 4 * 8 + word / 2 % 2 * 32 + word % 2 * 4 + half * 64;
}
// Sums of weight * code of those four tokens: two to a word, because each stays within an int16.
struct CodeSums {
  uint32_t even = 0, odd = 0;  // tokens 0 and 2; 1 and 3

  // codes: a word shifted right by 4 * half.
  TS_HD void Add(uint32_t codes, int32_t weight) {
    even += (codes & 0x000f000fu) * static_cast<uint32_t>(weight);
    odd += (codes >> 8 & 0x000f000fu) * static_cast<uint32_t>(weight);
  }
  TS_HD int32_t Of(int token) const {
    const uint32_t both = token % 2 == 0 ? even : odd;
    const auto low = static_cast<int16_t>(both);
    if (token < 2) return low;
    return static_cast<int16_t>((both - static_cast<uint32_t>(static_cast<int32_t>(low))) >> 16);
  }
};
TS_HD float IndexScore(int32_t sum, float unit, float bias) {
  return AddRounded(MulRounded(unit, static_cast<float>(sum)), bias);
}

// Exp2 of kvstore/select/kernels.h: 2^x with a linear mantissa.
TS_HD float LinearExp2(float x) {
  const float below = x < 60.0f ? x : 60.0f;
  const float within = below > -126.0f ? below : -126.0f;
  const float bits = AddRounded(MulRounded(within, 8388608.0f), 1065353216.0f);  // 2^23, 127 * 2^23
  return BitsFloat(static_cast<uint32_t>(static_cast<int32_t>(bits)));
}

// Top-k by digits of ScoreKey, the highest first: after the last step `prefix` is the k-th largest
// key, and `wanted` is how many tokens of exactly that key belong to the k, lowest first.
struct RadixSelect {
  static constexpr int kBits = 8, kBins = 256, kSteps = 4;

  uint32_t prefix = 0;
  int32_t wanted = 0;  // of the k, how many are not yet known to be above the prefix
  int32_t step = 0;

  TS_HD int32_t Shift() const { return 32 - kBits * (step + 1); }
  // Whether a key agrees with the digits so far, and the digit of this step.
  TS_HD bool Matches(uint32_t key) const {
    return step == 0 || key >> (Shift() + kBits) == prefix >> (Shift() + kBits);
  }
  TS_HD uint32_t Digit(uint32_t key) const { return key >> Shift() & (kBins - 1); }
  // bins: of the keys that match, how many have each digit.
  TS_HD void Take(const uint32_t* bins) {
    int32_t digit = kBins - 1;
    while (digit > 0 && static_cast<int32_t>(bins[digit]) < wanted) {
      wanted -= static_cast<int32_t>(bins[digit]);
      --digit;
    }
    prefix |= static_cast<uint32_t>(digit) << Shift();
    ++step;
  }
};

}  // namespace tailor::cuda
