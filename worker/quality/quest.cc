// Quest: Tang et al., "Quest: Query-Aware Sparsity for Efficient Long-Context LLM Inference", ICML
// 2024 (arXiv:2406.10774). A page of 16 tokens is scored by an upper bound of q . k over its keys,
//
//   bound = sum over c of max(q[c] * min_c, q[c] * max_c)
//
// from the smallest and largest value of each key channel, and is fetched whole. The paper scores
// per query head; rows are shared by a group here, so bounds are summed over the group's query
// heads. Pages are counted from the first candidate (the sink is resident); the last page fetched
// is cut where the number of rows is reached, so that every method fetches the same.
#include <algorithm>
#include <limits>
#include <numeric>

#include "worker/quality/choosing_fetcher.h"

namespace tailor {
namespace {

constexpr int32_t kQuestPageTokens = 16;

class QuestFetcher final : public ChoosingFetcher {
 public:
  QuestFetcher(Backend* backend, const SelectParams& params, const PoolShape& shape)
      : ChoosingFetcher(backend, params),
        kv_heads_(shape.kv_heads),
        ranges_(int64_t{shape.layers} * shape.kv_heads) {}

 private:
  // Per channel of each page; sealed rows never change, so a whole page's are computed once.
  struct Ranges {
    std::vector<float> smallest, largest;  // [pages][head_dim]
    int32_t whole_pages = 0;
  };

  static void Cover(const HeadChoice& choice, int32_t pages, Ranges* ranges) {
    const int32_t d = choice.head_dim();
    ranges->smallest.resize(int64_t{pages} * d);
    ranges->largest.resize(int64_t{pages} * d);
    for (int32_t page = ranges->whole_pages; page < pages; ++page) {
      float* smallest = ranges->smallest.data() + int64_t{page} * d;
      float* largest = ranges->largest.data() + int64_t{page} * d;
      std::fill(smallest, smallest + d, std::numeric_limits<float>::infinity());
      std::fill(largest, largest + d, -std::numeric_limits<float>::infinity());
      const int32_t first = choice.first + page * kQuestPageTokens;
      for (int32_t t = first; t < std::min(first + kQuestPageTokens, choice.end); ++t) {
        const BFloat16* key = choice.Key(t);
        for (int32_t c = 0; c < d; ++c) {
          smallest[c] = std::min(smallest[c], ToFloat(key[c]));
          largest[c] = std::max(largest[c], ToFloat(key[c]));
        }
      }
    }
    ranges->whole_pages = (choice.end - choice.first) / kQuestPageTokens;
  }

  static float Bound(const HeadChoice& choice, const Ranges& ranges, int32_t page) {
    const int32_t d = choice.head_dim();
    const float* smallest = ranges.smallest.data() + int64_t{page} * d;
    const float* largest = ranges.largest.data() + int64_t{page} * d;
    float bound = 0;
    for (size_t i = 0; i < choice.q.size(); ++i) {
      bound += std::max(choice.q[i] * smallest[i % d], choice.q[i] * largest[i % d]);
    }
    return bound;
  }

  void ChooseHead(const HeadChoice& choice, std::span<int32_t> tokens) override {
    Ranges& ranges = ranges_[int64_t{choice.layer} * kv_heads_ + choice.kv_head];
    const int32_t candidates = choice.end - choice.first;
    const int32_t pages = (candidates + kQuestPageTokens - 1) / kQuestPageTokens;
    Cover(choice, pages, &ranges);
    std::vector<float> bounds(pages);
    for (int32_t page = 0; page < pages; ++page) bounds[page] = Bound(choice, ranges, page);
    std::vector<int32_t> order(pages);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return bounds[a] > bounds[b]; });
    size_t chosen = 0;
    for (const int32_t page : order) {
      const int32_t first = choice.first + page * kQuestPageTokens;
      const int32_t end = std::min(first + kQuestPageTokens, choice.end);
      for (int32_t t = first; t < end && chosen < tokens.size(); ++t) tokens[chosen++] = t;
    }
  }

  const int32_t kv_heads_;
  std::vector<Ranges> ranges_;  // [layers][kv_heads]
};

}  // namespace

std::unique_ptr<RowFetcher> MakeQuestFetcher(Backend* backend, const SelectParams& params,
                                             const PoolShape& shape) {
  return std::make_unique<QuestFetcher>(backend, params, shape);
}

}  // namespace tailor
