// Approximate scores of one page from its channel-major index. ALGORITHM §3.4.
#pragma once

#include <cstdint>
#include <span>

#include "common/types.h"

namespace tailor {

// One critical channel of a page: score[t] += weight * code[t].
struct ChannelTerm {
  const int8_t* codes = nullptr;  // [page_tokens]
  float weight = 0;               // q_mean[c] * scale[c] of this page
};

// scores[t] = sum over terms, in order, of weight * code[t]: one multiplication and one addition
// each, never fused, so every SIMD level gives the same bits. terms not empty.
using ScorePageFn = void (*)(std::span<const ChannelTerm> terms, float* scores);

// The version for this CPU; TAILOR_SIMD lowers it.
ScorePageFn ChooseScorePage();

void ScorePageScalar(std::span<const ChannelTerm> terms, float* scores);
void ScorePageAvx2(std::span<const ChannelTerm> terms, float* scores);
void ScorePageAvx512(std::span<const ChannelTerm> terms, float* scores);

}  // namespace tailor
