// Row selection by other means than ours, for measuring: every such method fetches the same number
// of rows as the policy would, chosen by its own rule. ALGORITHM §6.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "worker/cache/sequence_cache.h"

namespace tailor {

// What one KV head of one layer chooses from at one step.
struct HeadChoice {
  const PoolView* pool = nullptr;
  std::span<const PageId> pages;  // sealed
  int32_t layer = 0, kv_head = 0;
  std::span<const float> q;    // [group][head_dim]: the head's query heads, exact
  int32_t first = 0, end = 0;  // candidates are the tokens [first, end)
  int32_t count = 0;           // to choose, 1..end - first

  // The key of a candidate or any other token in a sealed page: [head_dim].
  const BFloat16* Key(int32_t token) const;
  int32_t head_dim() const { return pool->shape().head_dim; }
  int32_t group() const { return static_cast<int32_t>(q.size()) / head_dim(); }
};

// sum over c of q[c] * key[c]; head_dim is a multiple of 16.
float DotKey(std::span<const float> q, const BFloat16* key);

// Chooses when the rows are taken, not when they are posted: by then the newest token's rows are
// written too, and a method may look at every token that the exact attention sees. Callers post
// exact queries only.
class ChoosingFetcher : public RowFetcher {
 public:
  ChoosingFetcher(Backend* backend, const SelectParams& params)
      : backend_(backend), params_(params) {}
  absl::Status Post(int32_t layer, const SealedPages& sealed, std::span<const float> q) override;
  absl::StatusOr<SelectedRows> Take(int32_t layer) override;

 protected:
  // Writes choice.count different candidates, in any order. Heads run on different threads.
  virtual void ChooseHead(const HeadChoice& choice, std::span<int32_t> tokens) = 0;

 private:
  struct Posted {
    int32_t layer;
    SealedPages sealed;
    std::vector<float> q;
  };
  Backend* backend_;
  const SelectParams params_;
  std::deque<Posted> posted_;
  Selection taken_;
};

// The candidates of largest attention mass, summed over the group's query heads: no choice of as
// many rows has a larger mass recall. `cache` is the one that will own the fetcher.
std::unique_ptr<RowFetcher> MakeOracleFetcher(Backend* backend, const SelectParams& params,
                                              const SequenceCache& cache);
// Candidates by lot.
std::unique_ptr<RowFetcher> MakeRandomFetcher(Backend* backend, const SelectParams& params,
                                              int32_t kv_heads, uint64_t seed);
// Quest (arXiv:2406.10774): whole pages of 16 tokens by an upper bound of their scores.
std::unique_ptr<RowFetcher> MakeQuestFetcher(Backend* backend, const SelectParams& params,
                                             const PoolShape& shape);

}  // namespace tailor
