#include "tests/eval/control_fetchers.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <numeric>
#include <random>

#include "common/status.h"

namespace tailor {
namespace {

class ControlFetcher final : public RowFetcher {
 public:
  ControlFetcher(Control control, const PoolShape& shape, const SelectParams& params,
                 uint64_t seed)
      : control_(control), shape_(shape), params_(params), random_(seed), kmax_(shape) {}

  absl::Status Post(int32_t layer, const SealedPages& sealed, std::span<const float> q) override {
    kmax_.Extend(*sealed.pool, sealed.pages);
    Selection& selection = selections_.emplace_back();
    layers_.push_back(layer);
    const int32_t candidates =
        static_cast<int32_t>(sealed.pages.size()) * kPageTokens - params_.sink_tokens;
    selection.count = control_ == Control::kWindowOnly ? 0 : std::min(params_.top_k, candidates);
    for (int32_t head = 0; head < shape_.kv_heads; ++head) {
      if (control_ == Control::kOracle) ScoreExactly(layer, head, sealed, q);
      if (control_ == Control::kRandom) ScoreRandomly(candidates);
      TakeLargest(&selection);
    }
    const SelectInput input = {.pool = sealed.pool, .layer = layer, .sealed_pages = sealed.pages,
                               .kmax = &kmax_, .q = q, .params = params_};
    selection.rows.resize(selection.tokens.size() * 2 * shape_.head_dim);
    return Gather(input, &selection);
  }

  absl::StatusOr<SelectedRows> Take(int32_t layer) override {
    TS_CHECK(!layers_.empty() && layers_.front() == layer);
    taken_ = std::move(selections_.front());
    selections_.pop_front();
    layers_.pop_front();
    return SelectedRows{.count = taken_.count, .tokens = taken_.tokens, .rows = taken_.rows};
  }

 private:
  // scores_[i]: softmax mass of candidate i (token sink + i), summed over the group.
  void ScoreExactly(int32_t layer, int32_t head, const SealedPages& sealed,
                    std::span<const float> q) {
    const int32_t d = shape_.head_dim;
    const int32_t group = static_cast<int32_t>(q.size()) / d / shape_.kv_heads;
    const int32_t tokens = static_cast<int32_t>(sealed.pages.size()) * kPageTokens;
    scores_.assign(tokens - params_.sink_tokens, 0.0f);
    std::vector<float> logits(scores_.size());
    for (int32_t g = 0; g < group; ++g) {
      const float* query = q.data() + (head * group + g) * d;
      for (int32_t t = params_.sink_tokens; t < tokens; ++t) {
        const BFloat16* key = sealed.pool->Rows(layer, head, sealed.pages[t / kPageTokens]) +
                              (t % kPageTokens) * 2 * d;
        float dot = 0;
        for (int32_t c = 0; c < d; ++c) dot += query[c] * ToFloat(key[c]);
        logits[t - params_.sink_tokens] = dot / std::sqrt(static_cast<float>(d));
      }
      const float largest = *std::max_element(logits.begin(), logits.end());
      float sum = 0;
      for (float& l : logits) sum += l = std::exp(l - largest);
      for (size_t i = 0; i < logits.size(); ++i) scores_[i] += logits[i] / sum;
    }
  }

  void ScoreRandomly(int32_t candidates) {
    scores_.resize(candidates);
    for (float& s : scores_) s = std::uniform_real_distribution<float>()(random_);
  }

  void TakeLargest(Selection* selection) {
    std::vector<int32_t> order(selection->count > 0 ? scores_.size() : 0);
    std::iota(order.begin(), order.end(), 0);
    std::nth_element(order.begin(), order.begin() + selection->count, order.end(),
                     [&](int32_t a, int32_t b) { return scores_[a] > scores_[b]; });
    std::sort(order.begin(), order.begin() + selection->count);
    for (int32_t i = 0; i < selection->count; ++i) {
      selection->tokens.push_back(order[i] + params_.sink_tokens);
    }
  }

  const Control control_;
  const PoolShape shape_;
  const SelectParams params_;
  std::mt19937_64 random_;
  RunningKmax kmax_;
  std::vector<float> scores_;
  std::deque<Selection> selections_;
  std::deque<int32_t> layers_;
  Selection taken_;
};

}  // namespace

std::unique_ptr<RowFetcher> MakeControlFetcher(Control control, const PoolShape& shape,
                                               const SelectParams& params, uint64_t seed) {
  return std::make_unique<ControlFetcher>(control, shape, params, seed);
}

}  // namespace tailor
