#include "worker/sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "common/status.h"
#include "worker/ops/logit_math.h"

namespace tailor {
namespace {

uint64_t SplitMix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

double MassOf(std::span<const LogitCandidate> best) {
  double mass = 0;
  for (const LogitCandidate& c : best) mass += LogitTerm(c.value, best.front().value);
  return mass;
}

}  // namespace

double CounterUniform(uint64_t seed, uint64_t position) {
  return static_cast<double>(SplitMix64(SplitMix64(seed) ^ position) >> 11) * 0x1p-53;
}

Sampler::Sampler(const SamplingParams& params, std::span<const TokenId> context,
                 std::span<const TokenId> resumed)
    : params_(params) {
  if (params_.repetition_penalty != 1.0f) {
    for (const TokenId token : context) {
      adjustments_.push_back({.token = token, .repetition = params_.repetition_penalty});
    }
    const auto by_token = [](const auto& a, const auto& b) { return a.token < b.token; };
    const auto same = [](const auto& a, const auto& b) { return a.token == b.token; };
    std::sort(adjustments_.begin(), adjustments_.end(), by_token);
    adjustments_.erase(std::unique(adjustments_.begin(), adjustments_.end(), same),
                       adjustments_.end());
  }
  for (const TokenId token : resumed) AdjustGenerated(token);
}

// Once more among the generated ones.
void Sampler::AdjustGenerated(TokenId token) {
  if (params_.repetition_penalty == 1.0f && params_.presence_penalty == 0.0f &&
      params_.frequency_penalty == 0.0f) {
    return;
  }
  const int32_t count = ++generated_[token];
  const auto size = static_cast<int32_t>(adjustments_.size());
  const auto at = adjustments_.begin() + FirstFrom(adjustments_.data(), size, token);
  const LogitAdjustment adjustment = {
      .token = token,
      .repetition = params_.repetition_penalty,
      .subtract = params_.presence_penalty + params_.frequency_penalty * static_cast<float>(count)};
  if (at != adjustments_.end() && at->token == token) {
    *at = adjustment;
  } else {
    adjustments_.insert(at, adjustment);
  }
}

LogitQuery Sampler::query() const {
  LogitQuery query = {.adjustments = adjustments_};
  query.candidates = 1;
  if (params_.temperature == 0.0f) return query;
  query.temperature = params_.temperature;
  if (params_.top_k > kMaxLogitCandidates) return query;  // the logits will be needed
  query.candidates = params_.top_k > 0 ? params_.top_k : kUsualCandidates;
  query.mass = params_.top_k == 0;
  return query;
}

std::optional<LogitCandidate> Sampler::Draw(const Choice& from, int64_t position) {
  const std::span<const LogitCandidate> best = from.best;
  // top_p and min_p keep a prefix; the largest probability is 1 / mass.
  const bool cuts = params_.top_p < 1.0f || params_.min_p > 0.0f;
  double kept = 0;
  probabilities_.clear();
  for (const LogitCandidate& c : best) {
    const double p = LogitTerm(c.value, best.front().value);
    const bool cut = cuts && (kept >= params_.top_p * from.mass || p < params_.min_p);
    if (!probabilities_.empty() && (p == 0 || cut)) break;
    probabilities_.push_back(p);
    kept += p;
  }
  const bool complete = from.complete || probabilities_.size() < best.size();
  if (cuts && !complete) return std::nullopt;
  const double mass = cuts ? kept : from.mass;
  double remaining = CounterUniform(params_.seed, static_cast<uint64_t>(position)) * mass;
  for (size_t i = 0; i < probabilities_.size(); ++i) {
    remaining -= probabilities_[i];
    if (remaining < 0) return best[i];
  }
  if (!complete) return std::nullopt;
  return best[probabilities_.size() - 1];
}

// Ranks as many as the draw asks for: sorting a whole vocabulary takes milliseconds.
LogitCandidate Sampler::DrawFromLogits(double mass, std::span<const float> logits,
                                       int64_t position) {
  std::vector<float> adjusted(logits.begin(), logits.end());
  for (const auto& [token, repetition, subtract] : adjustments_) {
    adjusted[token] = AdjustedLogit(adjusted[token], repetition, subtract);
  }
  keys_.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    const float value = LogitValue(adjusted[i], params_.temperature);
    keys_.push_back(CandidateKey(value, static_cast<TokenId>(i)));
  }
  const bool has_top_k = params_.top_k > 0;
  const size_t most = has_top_k ? std::min<size_t>(params_.top_k, keys_.size()) : keys_.size();
  ranked_.clear();
  size_t wanted = has_top_k ? most : 16 * kUsualCandidates;
  while (true) {
    wanted = std::min(wanted, most);
    const auto first = keys_.begin() + std::ssize(ranked_);
    const auto last = keys_.begin() + static_cast<ptrdiff_t>(wanted);
    std::nth_element(first, last, keys_.end(), std::greater<>());
    std::sort(first, last, std::greater<>());
    for (auto key = first; key != last; ++key) {
      ranked_.push_back({TokenOf(*key), ValueOf(*key), logits[TokenOf(*key)]});
    }
    const auto drawn = Draw(
        {.best = ranked_, .complete = wanted == most, .mass = has_top_k ? MassOf(ranked_) : mass},
        position);
    if (drawn.has_value()) return *drawn;
    wanted *= 4;
  }
}

Sample Sampler::Count(const LogitCandidate& drawn, const LogitReduction& reduced) {
  AdjustGenerated(drawn.token);
  return {.token = drawn.token, .logprob = static_cast<float>(drawn.logit - reduced.LogSumExp())};
}

std::optional<Sample> Sampler::Next(const LogitReduction& reduced, int64_t position) {
  TS_CHECK(!reduced.candidates.empty());
  if (params_.temperature == 0.0f) return Count(reduced.candidates.front(), reduced);
  if (params_.top_k > kMaxLogitCandidates) return std::nullopt;
  const bool has_top_k = params_.top_k > 0;
  const std::span<const LogitCandidate> best = reduced.candidates;
  const bool all = std::ssize(best) < kUsualCandidates;  // fewer than asked for: the vocabulary
  const auto drawn = Draw(
      {.best = best, .complete = has_top_k || all, .mass = has_top_k ? MassOf(best) : reduced.mass},
      position);
  if (!drawn.has_value()) return std::nullopt;
  return Count(*drawn, reduced);
}

Sample Sampler::Next(const LogitReduction& reduced, std::span<const float> logits,
                     int64_t position) {
  if (params_.temperature == 0.0f) return Count(reduced.candidates.front(), reduced);
  return Count(DrawFromLogits(reduced.mass, logits, position), reduced);
}

}  // namespace tailor
