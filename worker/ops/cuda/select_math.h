// Selection on a device, operation by operation as kvstore/select does it: the same scores bit for
// bit from the same index, the same tokens under the same tie rule (ties to the lower token).
#pragma once

#include "worker/ops/cuda/page_bits.h"

namespace tailor::cuda {

// The value of one sketch code, and a term of a score: a rounding for each operation.
TS_HD float SketchValue(float min, float scale, uint32_t code) {
  return AddRounded(min, MulRounded(scale, static_cast<float>(code)));
}
TS_HD float AddTerm(float score, float weight, float code) {
  return AddRounded(score, MulRounded(weight, code));
}

// Whether channel a comes before b among the critical ones: of larger importance, of equal ones the
// lower.
TS_HD bool IsMoreCritical(float importance_a, int32_t a, float importance_b, int32_t b) {
  return importance_a != importance_b ? importance_a > importance_b : a < b;
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
