// Draws the next token. Stateless but for the counts of the turn's own tokens: the draw at a
// position depends on (seed, position, logits) alone, so a replayed or moved turn repeats itself.
//
// It sees a row of logits through what a backend reduced it to (worker/ops/logits.h), and asks for
// the logits themselves only where the draw lies beyond the candidates. Which of the two happens
// follows from logits and parameters, and the token is the same either way.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "common/types.h"
#include "worker/ops/logits.h"
#include "worker/sampling/sampling_params.h"

namespace tailor {

// A uniform number in [0, 1) from (seed, position): SplitMix64 over both, 53 bits.
double CounterUniform(uint64_t seed, uint64_t position);

struct Sample {
  TokenId token = 0;
  float logprob = 0;  // of the model's distribution, before penalties and truncation
};

class Sampler {
 public:
  // Asked for where no top_k says how many can be drawn. Of a model's text nearly all draws lie
  // within so many; twice as many cost more to sort than they save.
  static constexpr int32_t kUsualCandidates = 256;

  // `params` are valid. `context` are the ids before the turn's first generated token: they count
  // for the repetition penalty. `resumed` are those it generated before it broke off.
  Sampler(const SamplingParams& params, std::span<const TokenId> context,
          std::span<const TokenId> resumed = {});

  // What Next needs to know of the next position's logits; valid until then.
  LogitQuery query() const;

  // Draws from `reduced`, the answer to query(). Ties go to the lower id. Nothing, and nothing is
  // counted, when the draw lies beyond the candidates.
  std::optional<Sample> Next(const LogitReduction& reduced, int64_t position);
  // The same draw with the row's logits [vocab] at hand: always a token.
  Sample Next(const LogitReduction& reduced, std::span<const float> logits, int64_t position);

 private:
  // What a draw chooses from: all tokens that top_k left, or the best of them.
  struct Choice {
    std::span<const LogitCandidate> best;  // not empty
    bool complete = false;
    double mass = 0;  // of all that top_k left, in units of the best one's
  };
  std::optional<LogitCandidate> Draw(const Choice& from, int64_t position);
  LogitCandidate DrawFromLogits(double mass, std::span<const float> logits, int64_t position);
  Sample Count(const LogitCandidate& drawn, const LogitReduction& reduced);
  void AdjustGenerated(TokenId token);

  SamplingParams params_;
  std::unordered_map<TokenId, int32_t> generated_;  // id -> occurrences
  std::vector<LogitAdjustment> adjustments_;        // of the context's and generated ids, by id
  std::vector<uint64_t> keys_;                      // [vocab], where logits were needed
  std::vector<LogitCandidate> ranked_;
  std::vector<double> probabilities_;
};

}  // namespace tailor
