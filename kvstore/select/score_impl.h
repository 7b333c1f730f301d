// The loop of ScorePage, for the compiler to vectorize: included once per SIMD level with that
// level's flags. -ffp-contract=off keeps multiplication and addition apart on all of them.
#pragma once

#include "kvstore/select/score.h"

namespace tailor {
namespace {

inline void ScorePageLoop(std::span<const ChannelTerm> terms, float* scores) {
  float sums[kPageTokens];
  for (int t = 0; t < kPageTokens; ++t) sums[t] = 0.0f;
  for (const ChannelTerm& term : terms) {
    const int8_t* codes = term.codes;
    const float weight = term.weight;
    for (int t = 0; t < kPageTokens; ++t) sums[t] += weight * static_cast<float>(codes[t]);
  }
  for (int t = 0; t < kPageTokens; ++t) scores[t] = sums[t];
}

}  // namespace
}  // namespace tailor
