// How the next token is drawn from the logits.
#pragma once

#include <cstdint>

#include "absl/status/status.h"

namespace tailor {

// Defaults are greedy. Order: penalties, temperature, top-k, top-p, min-p, draw.
struct SamplingParams {
  float temperature = 0.0f;         // 0: greedy; 0..100
  int32_t top_k = 0;                // keep the k largest; 0: all
  float top_p = 1.0f;               // smallest set with this mass; (0, 1]
  float min_p = 0.0f;               // drop below min_p * largest probability; [0, 1)
  float repetition_penalty = 1.0f;  // > 1 discourages ids of the context; (0, 10]
  float presence_penalty = 0.0f;    // subtracted once per generated id; [-2, 2]
  float frequency_penalty = 0.0f;   // subtracted per occurrence among generated ids; [-2, 2]
  uint64_t seed = 0;                // draws depend on (seed, position) alone

  // Errors: InvalidArgument "temperature is 101, limit 0..100".
  absl::Status Validate() const;
};

}  // namespace tailor
