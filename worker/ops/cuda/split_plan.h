// How attention over n tokens is cut among blocks of a GPU, and how a token finds its row. Plans
// are functions of numbers, made on the host; kernels follow them.
#pragma once

#include "worker/ops/cuda/page_bits.h"

namespace tailor::cuda {

// `tokens` rows from `rows` on are tokens [first, first + tokens) of their head.
struct SegmentRef {
  const uint16_t* rows;  // [tokens][2][head_dim] bf16
  int32_t first;
  int32_t tokens;
};

// The segment that holds `token`: `segments` are in order, without gaps, from token 0 on.
TS_HD int32_t FindSegment(const SegmentRef* segments, int32_t count, int32_t token) {
  // Segments are mostly pages of a sequence: the place is mostly where it would be if all were.
  const int32_t guess = token / kPageRows;
  if (guess < count && segments[guess].first <= token &&
      token < segments[guess].first + segments[guess].tokens) {
    return guess;
  }
  int32_t low = 0, high = count - 1;
  while (low < high) {
    const int32_t middle = (low + high + 1) / 2;
    if (segments[middle].first <= token) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}
TS_HD const uint16_t* RowOf(const SegmentRef* segments, int32_t count, int32_t token,
                            int32_t head_dim) {
  const SegmentRef& segment = segments[FindSegment(segments, count, token)];
  return segment.rows + int64_t{token - segment.first} * 2 * head_dim;
}

// Splits of equal length, the last one shorter.
struct SplitPlan {
  int32_t split_tokens = 0;
  int32_t splits = 0;

  TS_HD int32_t First(int32_t split) const { return split * split_tokens; }
  TS_HD int32_t Last(int32_t split, int32_t tokens) const {
    const int32_t end = (split + 1) * split_tokens;
    return end < tokens ? end : tokens;
  }
};

inline constexpr int32_t kMinSplitTokens = 64;
inline constexpr int32_t kMaxSplits = 512;

// Enough splits for `multiprocessors` to have four blocks each, of a power of two of tokens. A
// function of the context alone (never of the batch), so that a row's sums keep their order.
SplitPlan PlanSplits(int64_t tokens, int32_t kv_heads, int32_t multiprocessors);

// The same in whole pages, for a quantized layer.
SplitPlan PlanPageSplits(int64_t pages, int32_t kv_heads, int32_t multiprocessors);

// One split's softmax: out is the sum of e^(score - max) v.
struct PartialSoftmax {
  float max;
  float sum;
};

// The weight of a split in the merge of all: e^(max - whole max).
TS_HD float MergeWeight(float max, float whole_max) {
#ifdef __CUDA_ARCH__
  return max == whole_max ? 1.0f : expf(max - whole_max);
#else
  return max == whole_max ? 1.0f : __builtin_expf(max - whole_max);
#endif
}

}  // namespace tailor::cuda
