// The oracle of Sampler: draws from all logits on the host, straight from the parameters' meaning.
// It is the sampler as it was before logits were reduced, and what sample_bench compares with.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <unordered_map>
#include <vector>

#include "worker/sampling/sampler.h"

namespace tailor {

class HostSampler {
 public:
  HostSampler(const SamplingParams& params, std::span<const TokenId> context,
              std::span<const TokenId> resumed = {})
      : params_(params) {
    for (const TokenId token : context) ++context_[token];
    for (const TokenId token : resumed) ++generated_[token];
  }

  Sample Next(std::span<const float> logits, int64_t position) {
    adjusted_.assign(logits.begin(), logits.end());
    ApplyPenalties();
    Sample sample;
    sample.token = params_.temperature == 0.0f ? Best() : Draw(position);
    const double largest = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (const float logit : logits) sum += std::exp(logit - largest);
    sample.logprob = static_cast<float>(logits[sample.token] - (largest + std::log(sum)));
    ++generated_[sample.token];
    return sample;
  }

 private:
  struct Candidate {
    float value;
    TokenId token;
  };

  void ApplyPenalties() {
    const auto repeat = [&](TokenId token) {
      float& logit = adjusted_[token];
      logit = logit > 0 ? logit / params_.repetition_penalty : logit * params_.repetition_penalty;
    };
    if (params_.repetition_penalty != 1.0f) {
      for (const auto& [token, count] : context_) repeat(token);
      for (const auto& [token, count] : generated_) {
        if (!context_.contains(token)) repeat(token);
      }
    }
    for (const auto& [token, count] : generated_) {
      adjusted_[token] -=
          params_.presence_penalty + params_.frequency_penalty * static_cast<float>(count);
    }
  }

  TokenId Best() const {
    return static_cast<TokenId>(std::max_element(adjusted_.begin(), adjusted_.end()) -
                                adjusted_.begin());
  }

  TokenId Draw(int64_t position) {
    ranked_.clear();
    for (size_t i = 0; i < adjusted_.size(); ++i) {
      ranked_.push_back({adjusted_[i] / params_.temperature, static_cast<TokenId>(i)});
    }
    const size_t count =
        params_.top_k > 0 ? std::min<size_t>(params_.top_k, ranked_.size()) : ranked_.size();
    std::partial_sort(ranked_.begin(), ranked_.begin() + static_cast<ptrdiff_t>(count),
                      ranked_.end(), [](const Candidate& a, const Candidate& b) {
                        return a.value != b.value ? a.value > b.value : a.token < b.token;
                      });
    ranked_.resize(count);
    std::vector<double> p;
    double total = 0;
    for (const Candidate& c : ranked_) {
      p.push_back(std::exp(static_cast<double>(c.value) - ranked_.front().value));
      total += p.back();
    }
    double kept = 0;
    size_t keep = 0;
    while (keep < p.size() &&
           (keep == 0 || (kept < params_.top_p * total && p[keep] >= params_.min_p))) {
      kept += p[keep++];
    }
    double remaining = CounterUniform(params_.seed, static_cast<uint64_t>(position)) * kept;
    for (size_t i = 0; i < keep; ++i) {
      remaining -= p[i];
      if (remaining < 0) return ranked_[i].token;
    }
    return ranked_[keep - 1].token;
  }

  const SamplingParams params_;
  std::unordered_map<TokenId, int32_t> context_, generated_;  // id -> occurrences
  std::vector<float> adjusted_;
  std::vector<Candidate> ranked_;
};

}  // namespace tailor
