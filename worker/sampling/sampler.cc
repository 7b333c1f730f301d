#include "worker/sampling/sampler.h"

#include <algorithm>
#include <cmath>

#include "common/status.h"

namespace tailor {
namespace {

uint64_t SplitMix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

TokenId ArgMax(std::span<const float> logits) {
  return static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

double LogSumExp(std::span<const float> logits, float largest) {
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - largest);
  return largest + std::log(sum);
}

}  // namespace

double CounterUniform(uint64_t seed, uint64_t position) {
  return static_cast<double>(SplitMix64(SplitMix64(seed) ^ position) >> 11) * 0x1p-53;
}

Sampler::Sampler(const SamplingParams& params, std::span<const TokenId> context,
                 std::span<const TokenId> resumed)
    : params_(params) {
  for (const TokenId token : resumed) ++generated_[token];
  if (params_.repetition_penalty != 1.0f) {
    for (const TokenId token : context) ++context_[token];
  }
}

void Sampler::ApplyPenalties() {
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
    adjusted_[token] -= params_.presence_penalty + params_.frequency_penalty * count;
  }
}

// Leaves the `count` best candidates, best first; ties to the lower id.
void Sampler::KeepLargest(size_t count) {
  const auto better = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
  };
  count = std::min(count, candidates_.size());
  std::partial_sort(candidates_.begin(), candidates_.begin() + count, candidates_.end(), better);
  candidates_.resize(count);
}

TokenId Sampler::Draw(int64_t position) {
  candidates_.clear();
  for (size_t i = 0; i < adjusted_.size(); ++i) {
    candidates_.push_back({adjusted_[i] / params_.temperature, static_cast<TokenId>(i)});
  }
  KeepLargest(params_.top_k > 0 ? params_.top_k : candidates_.size());
  probabilities_.clear();
  double total = 0;
  for (const Candidate& c : candidates_) {
    probabilities_.push_back(
        std::exp(static_cast<double>(c.logit) - candidates_.front().logit));
    total += probabilities_.back();
  }
  // The largest probability is probabilities_[0] / total with probabilities_[0] = 1.
  double kept = 0;
  size_t keep = 0;
  while (keep < probabilities_.size() && (keep == 0 || (kept < params_.top_p * total &&
                                                        probabilities_[keep] >= params_.min_p))) {
    kept += probabilities_[keep++];
  }
  double remaining = CounterUniform(params_.seed, static_cast<uint64_t>(position)) * kept;
  for (size_t i = 0; i < keep; ++i) {
    remaining -= probabilities_[i];
    if (remaining < 0) return candidates_[i].token;
  }
  return candidates_[keep - 1].token;
}

Sample Sampler::Next(std::span<const float> logits, int64_t position) {
  TS_CHECK(!logits.empty());
  adjusted_.assign(logits.begin(), logits.end());
  ApplyPenalties();
  Sample sample;
  sample.token = params_.temperature == 0.0f ? ArgMax(adjusted_) : Draw(position);
  const float largest = *std::max_element(logits.begin(), logits.end());
  sample.logprob = static_cast<float>(logits[sample.token] - LogSumExp(logits, largest));
  ++generated_[sample.token];
  return sample;
}

}  // namespace tailor
