// May a turn run? A pure function of a snapshot: an exact byte quote against the budget, or a refusal
// that says what would fit. Promise 5 of docs/ARCHITECTURE.md.
#pragma once

#include <cstdint>
#include <map>

#include "absl/status/status.h"
#include "worker/cache/sequence_cache.h"
#include "worker/engine.h"

namespace tailor {

// The worker memory that a turn may come to hold.
struct TurnQuote {
  int64_t kv_bytes = 0;
  int64_t prefill_bytes = 0;  // beside those while it is prefilled: one turn at a time is
};

struct AdmissionLimits {
  int64_t context_tokens = 0;
  int32_t vocab = 0;
  int64_t worker_memory_bytes = 0;  // of KV; 0: no limit
  // Of KV and of one turn's prefill together; 0: no limit.
  int64_t device_memory_bytes = 0;
  int64_t hidden = 0;               // of the model: the residual stream of a prefill
  bool host_memory_is_far = false;  // of the backend: one layer's rows of a prefill

  // All but device_memory_bytes, which follows once the model, and all that lives as long, is
  // loaded. rows: of a prefill's unit. Errors: ResourceExhausted, where nothing is left for turns.
  static AdmissionLimits Of(const EngineOptions& options, const LlamaHyperparameters& model,
                            const Backend& backend);
  absl::Status LimitToWhatIsLeft(const Backend& backend, const LlamaHyperparameters& model,
                                 int64_t rows);
  // What idle sequences may hold beside running turns of these quotes.
  int64_t IdleBytes(const TurnQuote& running) const;
  // Device memory that is nobody's then.
  int64_t SpareBytes(const TurnQuote& running, int64_t idle_bytes) const;
};

// Quotes of the turns that are admitted and not finished. Whoever has it locks.
class RunningQuotes {
 public:
  void Add(const SequenceKey& key, const TurnQuote& quote) { quotes_[key] = quote; }
  void Remove(const SequenceKey& key) { quotes_.erase(key); }
  bool Contains(const SequenceKey& key) const { return quotes_.contains(key); }
  // All their KV, and the largest prefill.
  TurnQuote Total() const;

 private:
  std::map<SequenceKey, TurnQuote> quotes_;
};

// Tokens whose KV a turn may come to hold: the last generated one never gets any.
int64_t TurnTokens(const TurnRequest& request);

// `running`: of the turns already admitted; idle sequences give way and do not count.
// Errors: InvalidArgument (ids, limits), ResourceExhausted (memory).
absl::Status AdmitTurn(const TurnRequest& request, const AdmissionLimits& limits,
                       const LayerPolicy& policy, const PoolShape& shape, const TurnQuote& running);

// Whatever part of the history the store should turn out to keep.
TurnQuote QuoteTurn(const TurnRequest& request, const AdmissionLimits& limits,
                    const LayerPolicy& policy, const PoolShape& shape);

}  // namespace tailor
