// May a turn run? A pure function of a snapshot: an exact byte quote against the budget, or a refusal
// that says what would fit. Promise 5 of docs/ARCHITECTURE.md.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "worker/cache/sequence_cache.h"
#include "worker/engine.h"

namespace tailor {

struct AdmissionLimits {
  int64_t context_tokens = 0;
  int32_t vocab = 0;
  int64_t worker_memory_bytes = 0;  // 0: no limit
};

// Tokens whose KV a turn may come to hold: the last generated one never gets any.
int64_t TurnTokens(const TurnRequest& request);

// `running_bytes`: quotes of the turns already admitted; idle sequences give way and do not count.
// Errors: InvalidArgument (ids, limits), ResourceExhausted (memory).
absl::Status AdmitTurn(const TurnRequest& request, const AdmissionLimits& limits,
                       const LayerPolicy& policy, const PoolShape& shape, int64_t running_bytes);

// The worker bytes a turn may come to hold.
int64_t QuoteTurn(const TurnRequest& request, const LayerPolicy& policy, const PoolShape& shape);

}  // namespace tailor
