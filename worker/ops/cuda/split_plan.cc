#include "worker/ops/cuda/split_plan.h"

#include <algorithm>

namespace tailor::cuda {
namespace {

constexpr int64_t kBlocksPerMultiprocessor = 4;

// The least power of two, from `least` on, whose splits are at most as many as wanted.
SplitPlan Plan(int64_t items, int64_t least, int64_t wanted) {
  int64_t length = least;
  while ((items + length - 1) / length > wanted) length *= 2;
  return {static_cast<int32_t>(length), static_cast<int32_t>((items + length - 1) / length)};
}

int64_t WantedSplits(int32_t kv_heads, int32_t multiprocessors) {
  const int64_t blocks = kBlocksPerMultiprocessor * multiprocessors;
  return std::clamp<int64_t>((blocks + kv_heads - 1) / kv_heads, 1, kMaxSplits);
}

}  // namespace

SplitPlan PlanSplits(int64_t tokens, int32_t kv_heads, int32_t multiprocessors) {
  return Plan(tokens, kMinSplitTokens, WantedSplits(kv_heads, multiprocessors));
}

SplitPlan PlanPageSplits(int64_t pages, int32_t kv_heads, int32_t multiprocessors) {
  return Plan(pages, 1, WantedSplits(kv_heads, multiprocessors));
}

}  // namespace tailor::cuda
