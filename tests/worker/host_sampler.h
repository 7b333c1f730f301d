// The oracle of Sampler: draws from all logits on the host, straight from the parameters' meaning.
// Never optimised.
#pragma once

#include <algorithm>
#include <cmath>
#include <map>
#include <span>
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
    const std::vector<float> adjusted = Adjusted(logits);
    Sample sample;
    sample.token = params_.temperature == 0.0f
                       ? static_cast<TokenId>(std::max_element(adjusted.begin(), adjusted.end()) -
                                              adjusted.begin())
                       : Draw(adjusted, position);
    const double largest = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (const float logit : logits) sum += std::exp(logit - largest);
    sample.logprob = static_cast<float>(logits[sample.token] - (largest + std::log(sum)));
    ++generated_[sample.token];
    return sample;
  }

 private:
  std::vector<float> Adjusted(std::span<const float> logits) const {
    std::vector<float> adjusted(logits.begin(), logits.end());
    for (TokenId token = 0; token < std::ssize(adjusted); ++token) {
      if (!context_.contains(token) && !generated_.contains(token)) continue;
      float& logit = adjusted[token];
      logit = logit > 0 ? logit / params_.repetition_penalty : logit * params_.repetition_penalty;
    }
    for (const auto& [token, count] : generated_) {
      adjusted[token] -=
          params_.presence_penalty + params_.frequency_penalty * static_cast<float>(count);
    }
    return adjusted;
  }

  TokenId Draw(std::span<const float> adjusted, int64_t position) const {
    std::vector<std::pair<float, TokenId>> ranked;  // of minus the value: the best come first
    for (size_t i = 0; i < adjusted.size(); ++i) {
      ranked.push_back({-(adjusted[i] / params_.temperature), static_cast<TokenId>(i)});
    }
    std::sort(ranked.begin(), ranked.end());
    if (params_.top_k > 0) ranked.resize(std::min<size_t>(params_.top_k, ranked.size()));
    std::vector<double> p;
    double total = 0;
    for (const auto& [minus, token] : ranked) {
      p.push_back(std::exp(static_cast<double>(ranked[0].first) - minus));
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
      if (remaining < 0) return ranked[i].second;
    }
    return ranked[keep - 1].second;
  }

  const SamplingParams params_;
  std::map<TokenId, int32_t> context_, generated_;
};

}  // namespace tailor
