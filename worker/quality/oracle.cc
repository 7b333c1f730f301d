// The best that any choice of as many rows can do.
#include <algorithm>
#include <cmath>

#include "kvstore/select/top_k.h"
#include "worker/quality/choosing_fetcher.h"

namespace tailor {
namespace {

class OracleFetcher final : public ChoosingFetcher {
 public:
  OracleFetcher(Backend* backend, const SelectParams& params, const SequenceCache& cache)
      : ChoosingFetcher(backend, params), cache_(cache) {}

 private:
  void ChooseHead(const HeadChoice& choice, std::span<int32_t> tokens) override {
    // Normalised over every visible token, window and sink included: a query head whose mass is
    // resident anyway must not weigh as much as one whose mass has to be fetched.
    const auto visible = static_cast<int32_t>(cache_.tokens()) + 1;
    std::vector<float> mass(choice.end - choice.first, 0.0f), logits(visible);
    const float scale = 1.0f / std::sqrt(static_cast<float>(choice.head_dim()));
    for (int32_t g = 0; g < choice.group(); ++g) {
      const auto q = choice.q.subspan(g * choice.head_dim(), choice.head_dim());
      for (int32_t t = 0; t < visible; ++t) {
        logits[t] = scale * DotKey(q, cache_.StoreRow(choice.layer, choice.kv_head, t));
      }
      const float largest = *std::max_element(logits.begin(), logits.end());
      double sum = 0;
      for (float& l : logits) sum += l = std::exp(l - largest);
      for (size_t i = 0; i < mass.size(); ++i) {
        mass[i] += static_cast<float>(logits[choice.first + i] / sum);
      }
    }
    std::vector<float> block_max;
    std::vector<int32_t> survivors, chosen;
    TopK(mass, choice.count, block_max, survivors, &chosen);
    for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = choice.first + chosen[i];
  }

  const SequenceCache& cache_;
};

}  // namespace

std::unique_ptr<RowFetcher> MakeOracleFetcher(Backend* backend, const SelectParams& params,
                                              const SequenceCache& cache) {
  return std::make_unique<OracleFetcher>(backend, params, cache);
}

}  // namespace tailor
