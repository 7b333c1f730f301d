// Picks the dominant tokens of one layer, next to the memory that holds the keys: ALGORITHM
// §3.3-3.4. Pure functions over the layout: the store and a CPU worker run the same code, so the
// selectors `store` and `inline` give the same answer bit for bit, on every SIMD level (no fused
// multiply-add, fixed order, ties to the lower token).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kvstore/layout.h"
#include "kvstore/select/kernels.h"

namespace tailor {

// How the query heads that share a KV head agree on its tokens.
enum class GroupRule {
  kMean = 0,   // their mean query scores (published)
  kHeads = 1,  // each scores, and their softmax shares are added
};

// Numbers other than the published 8 / kMean / 0: docs/decisions/0004-selection.md.
struct SelectParams {
  int32_t channels = 24;    // critical channels per KV head, 1..head_dim
  int32_t top_k = 128;      // rows fetched per KV head, 1..kMaxTopK
  int32_t sink_tokens = 8;  // first tokens, resident in the worker: no candidates
  GroupRule group = GroupRule::kHeads;
  // The top_k + rescore_extra of best approximate score are scored again from their exact keys:
  // more of them read more of host memory and miss fewer. 0: the approximate scores decide.
  int32_t rescore_extra = 64;  // 0..kMaxTopK
};
inline constexpr int32_t kMaxTopK = 4096;

// The largest |K| of every channel over a sequence's sealed pages, per sparse layer and KV head:
// extended page by page, so that a step costs nothing per page.
class RunningKmax {
 public:
  explicit RunningKmax(const PoolShape& shape);
  // Covers pages[0, n): reads only those not yet covered. Truncation starts over.
  void Extend(const PoolView& pool, std::span<const PageId> pages);
  std::span<const float> Of(int32_t sparse_rank, int32_t kv_head) const;  // [head_dim]
  int64_t pages_covered() const { return pages_covered_; }

 private:
  int32_t kv_heads_, head_dim_;
  int64_t pages_covered_ = 0;
  std::vector<float> kmax_;  // [sparse][kv_heads][head_dim]
};

struct SelectInput {
  const PoolView* pool = nullptr;
  int32_t layer = 0;                     // must be sparse
  std::span<const PageId> sealed_pages;  // of the sequence, in order; candidates are their tokens
  const RunningKmax* kmax = nullptr;     // covers sealed_pages
  std::span<const float> q;              // [q_heads * head_dim]: exact or predicted, roped
  SelectParams params;
};

// One layer's choice. Buffers keep their capacity from call to call.
struct Selection {
  int32_t count = 0;            // tokens per KV head: min(top_k, candidates)
  std::vector<int32_t> tokens;  // [kv_heads][count] positions in the sequence, ascending
  std::vector<BFloat16> rows;   // [kv_heads][count][2][head_dim], filled by Gather
};

// Scratch for one thread.
struct SelectScratch {
  std::vector<float> scores;        // [tokens], then [chosen]
  std::vector<float> block_scores;  // [kQueryBlock][tokens]
  std::vector<ScoreShare> shares;   // [queries]
  std::vector<float> block_max;
  std::vector<int32_t> survivors, chosen, finalists;
  std::vector<float> queries;     // [queries][head_dim]
  std::vector<float> importance;  // [head_dim]
  std::vector<int32_t> channels;
  std::vector<float> block_q, scale, min;  // [queries][padded], [padded], [padded]
  std::vector<int8_t> weights;             // [kQueryBlock][padded]
};

// Sets out->count and makes room for tokens and rows of every KV head.
// Precondition (TS_DCHECK): shapes agree; params were validated by ValidateSelectParams.
void PrepareSelection(const SelectInput& input, Selection* out);

// One KV head of a prepared selection: critical channels, scores from the index, the best of those
// again from exact keys, the top_k largest. Heads may run on different threads.
void SelectHead(const SelectInput& input, int32_t kv_head, SelectScratch& scratch, Selection* out);

// Copies the rows that one head chose and verifies each copy against its row check.
// Errors: DataLoss "row check of layer L head H token T" (nothing is to be served then).
absl::Status GatherHead(const SelectInput& input, int32_t kv_head, Selection* selection);

// All heads, one after the other: prepare, select; then the rows of all.
void Select(const SelectInput& input, SelectScratch& scratch, Selection* out);
absl::Status Gather(const SelectInput& input, Selection* selection);

absl::Status ValidateSelectParams(const SelectParams& params, const PoolShape& shape);

}  // namespace tailor
