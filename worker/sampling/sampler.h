// Draws the next token. Stateless but for the counts of the turn's own tokens: the draw at a
// position depends on (seed, position, logits) alone, so a replayed or moved turn repeats itself.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "common/types.h"
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
  // `params` are valid. `context` are the ids before the turn's first generated token: they count
  // for the repetition penalty. `resumed` are those it generated before it broke off.
  Sampler(const SamplingParams& params, std::span<const TokenId> context,
          std::span<const TokenId> resumed = {});

  // logits: [vocab], finite. Ties go to the lower id. Not const: keeps scratch and counts.
  Sample Next(std::span<const float> logits, int64_t position);

 private:
  struct Candidate {
    float logit;
    TokenId token;
  };
  void ApplyPenalties();
  TokenId Draw(int64_t position);
  void KeepLargest(size_t count);

  SamplingParams params_;
  std::unordered_map<TokenId, int32_t> context_, generated_;  // id -> occurrences
  std::vector<float> adjusted_;         // [vocab]
  std::vector<Candidate> candidates_;
  std::vector<double> probabilities_;
};

}  // namespace tailor
