// The loops of a selection that depend on the SIMD level. Every level gives the same bits: sums of
// codes are integers, floats are added in 16 lanes in a fixed order, and no multiplication is fused
// with an addition. ALGORITHM §3.4.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <span>

#include "common/bfloat16.h"
#include "common/types.h"

namespace tailor {

inline constexpr int32_t kQueryBlock = 4;  // queries scored in one pass over a page's codes
inline constexpr int32_t kLanes = 16;      // arrays below are padded to whole lanes

// The largest |weight| with which no sum of weight * code over `channels` channels passes an int16.
constexpr int32_t WeightLimit(int32_t channels) {
  return std::clamp(32767 / (15 * (channels + channels % 2)), 1, 127);
}

// One query against one page: score[t] = unit * (sum over c of weight[c] * code[c][t]) + bias.
struct QueryTerms {
  float unit = 0;  // max |q[c] * scale[c]| / limit
  float bias = 0;  // sum of q[c] * min[c]
};

// What makes a score a share of its head's softmax: Exp2(score - largest) * factor.
struct ScoreShare {
  float largest = 0, factor = 0;
};

struct SelectKernels {
  // weights[c] = round_half_even(q[c] * scale[c] / unit). All arrays [padded], zero past the
  // channels.
  QueryTerms (*weigh)(const float* q, const float* scale, const float* min, int32_t padded,
                      int32_t limit, int8_t* weights);
  // scores[i][t] of `queries` <= kQueryBlock queries. codes: an even number of channels;
  // weights: [queries][weight_stride]; terms: [queries]; scores: [queries][score_stride].
  void (*score_page)(std::span<const uint8_t* const> codes, const int8_t* weights,
                     int32_t weight_stride, std::span<const QueryTerms> terms, float* scores,
                     int64_t score_stride);
  // scores[t] = Exp2(scores[t] - largest); factor is 1 / their sum. n: a multiple of kLanes, not 0.
  // NaN has no part in `largest`. The sum goes by lanes of a page, then by pages, then over lanes:
  // a device adds pages side by side and gets the same bits.
  ScoreShare (*exponents)(float* scores, int64_t n);
  // total[t] += factor * scores[t].
  void (*add)(const float* scores, float factor, float* total, int64_t n);
  // sum over c of q[c] * key[c]; head_dim a multiple of kLanes.
  float (*dot)(const float* q, const BFloat16* key, int32_t head_dim);
};

// 2^x with the mantissa linear in x: up to 6.2 % above it, monotone, exact at integers. x is taken
// as -126 below that, and as 60 above (NaN too).
inline constexpr float kExp2Lowest = -126, kExp2Highest = 60, kExponentStep = 8388608;  // 2^23
inline float Exp2(float x) {
  const float y = x < kExp2Highest ? x : kExp2Highest;
  const float bits = (y > kExp2Lowest ? y : kExp2Lowest) * kExponentStep + 127 * kExponentStep;
  return std::bit_cast<float>(static_cast<int32_t>(bits));
}

// The kernels for this CPU; TAILOR_SIMD lowers them.
const SelectKernels& ChooseSelectKernels();
extern const SelectKernels kSelectKernelsScalar, kSelectKernelsAvx2, kSelectKernelsAvx512;

}  // namespace tailor
