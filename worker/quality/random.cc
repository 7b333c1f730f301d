// Rows by lot: what a method must beat to have chosen at all.
#include <random>

#include "worker/quality/choosing_fetcher.h"

namespace tailor {
namespace {

class RandomFetcher final : public ChoosingFetcher {
 public:
  RandomFetcher(Backend* backend, const SelectParams& params, int32_t kv_heads, uint64_t seed)
      : ChoosingFetcher(backend, params) {
    // One generator a head, so that the choice does not depend on the number of threads.
    for (int32_t head = 0; head < kv_heads; ++head) generators_.emplace_back(seed + head);
  }

 private:
  // Selection sampling (Knuth, TAOCP 2, 3.4.2, algorithm S): one pass, every subset alike.
  void ChooseHead(const HeadChoice& choice, std::span<int32_t> tokens) override {
    std::mt19937_64& random = generators_[choice.kv_head];
    size_t chosen = 0;
    for (int32_t t = choice.first; chosen < tokens.size(); ++t) {
      const auto left = static_cast<uint64_t>(choice.end - t);
      if (random() % left < tokens.size() - chosen) tokens[chosen++] = t;
    }
  }

  std::vector<std::mt19937_64> generators_;  // [kv_heads]
};

}  // namespace

std::unique_ptr<RowFetcher> MakeRandomFetcher(Backend* backend, const SelectParams& params,
                                              int32_t kv_heads, uint64_t seed) {
  return std::make_unique<RandomFetcher>(backend, params, kv_heads, seed);
}

}  // namespace tailor
