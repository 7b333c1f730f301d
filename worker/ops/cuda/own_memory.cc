#include "worker/ops/cuda/own_memory.h"

#include <algorithm>

#include "common/types.h"
#include "worker/ops/cuda/split_plan.h"

namespace tailor::cuda {
namespace {

constexpr int64_t kUnquotedBytes = int64_t{32} << 20;
constexpr int64_t kFloat = sizeof(float);
constexpr int64_t kSkinny = 16, kSumLanes = 16;  // kSkinnyRows; partial sums of a page's exponents

// Inputs padded to whole pieces, and a gate beside its product.
int64_t ProductBytes(const LlamaHyperparameters& m, int64_t rows) {
  const int64_t widest = std::max({m.hidden, m.ffn_hidden, m.q_heads * m.head_dim});
  return rows * (m.ffn_hidden + (widest + 31) / 32 * 32) * kFloat;
}

// Partial results of `rows` queries, of tokens and of their pages' means.
int64_t PartialBytes(const LlamaHyperparameters& m, int64_t rows, int64_t tokens,
                     int multiprocessors) {
  const int64_t splits = PlanSplits(tokens, m.kv_heads, multiprocessors).splits +
                         PlanSplits(tokens / kPageTokens, m.kv_heads, multiprocessors).splits;
  return rows * m.q_heads * splits * (m.head_dim + 2) * kFloat;
}

// Scores of every head and of its group, and their exponents' sums.
int64_t SelectBytes(const LlamaHyperparameters& m, int64_t tokens) {
  return (m.q_heads + m.kv_heads) * tokens * kFloat +
         m.q_heads * (tokens / kPageTokens) * kSumLanes * kFloat;
}

}  // namespace

int64_t LaterBytes(const LlamaHyperparameters& model, int64_t rows, int64_t tokens,
                   int multiprocessors) {
  const int64_t of_a_lane =
      SelectBytes(model, tokens) + PartialBytes(model, 1, tokens, multiprocessors);
  return ProductBytes(model, std::max(rows, kSkinny)) +
         PartialBytes(model, kSkinny, tokens, multiprocessors) + kScratchLanes * of_a_lane +
         kMostStepBytes + kMostStepBytes / 2 + kUnquotedBytes;
}

}  // namespace tailor::cuda
