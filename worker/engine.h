// START HERE. The serving engine: token ids in, token ids out. It knows no text, no sessions, no RPC.
//
//   schedule -> prefill unit or decode step -> sample -> emit
//
// One engine thread runs the model; Submit, Cancel, Fork, Release, Remove and the queries may be
// called from any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/fingerprint.h"
#include "common/types.h"
#include "kvstore/client/kv_client.h"
#include "worker/engine_options.h"
#include "worker/policy/layer_policy.h"
#include "worker/sampling/sampling_params.h"

namespace tailor {

class ModelFile;
class Backend;

enum class AttentionMode {
  kHybrid,  // the policy's layer table
  kFull,    // every layer exact, full-precision KV in the worker: the uncompressed baseline
};

struct TurnRequest {
  SequenceKey sequence;
  std::vector<TokenId> history;      // all ids of the conversation, the new ones last; not empty
  AttentionMode attention = AttentionMode::kHybrid;
  SamplingParams sampling;
  // A turn that broke off goes on: the last so many ids of history are its own tokens, and are
  // computed by decode steps, as they were the first time. Less than history.size().
  int64_t resumed_tokens = 0;
  int32_t max_new_tokens = 256;      // >= 1, beside the resumed ones
  std::vector<TokenId> stop_tokens;  // generation ends after one of these (it is emitted)
};

enum class FinishReason { kStopToken, kLength, kContextFull, kCancelled };

// Bytes by where they lie (docs/ARCHITECTURE.md §8, promise 7).
struct TierBytes {
  int64_t quantized_codes = 0;  // worker: codes and params of quantized layers
  int64_t resident = 0;         // worker: full-precision KV (sink, window, residual; all in kFull)
  int64_t store_rows = 0;       // store: rows of this sequence's pages
  int64_t store_index = 0;      // store: index, scales and kmax of its pages
  int64_t sketch = 0;           // worker: a device's copies of the index
  int64_t row_cache = 0;        // worker: rows that a device keeps of those it fetched
};

// What a turn reused, recomputed, fetched and took.
struct TurnReport {
  int64_t reused_tokens = 0;     // KV found, in the worker or the store
  int64_t prefilled_tokens = 0;
  int64_t generated_tokens = 0;
  double queue_ms = 0, prefill_ms = 0;
  double time_to_first_token_ms = 0;  // from Submit to the first token
  double decode_ms = 0;               // of the tokens after the first
  double tokens_per_second = 0;       // of the tokens after the first; 0 when there are none
  int64_t rows_fetched = 0;           // over all layers and KV heads
  int64_t bytes_fetched = 0;
  TierBytes bytes;                    // at the end of the turn
  int64_t checked_heads = 0;          // by self-checks; the next three are of these
  double captured_mass_mean = 1, captured_mass_worst = 1;
  double output_error_mean = 0;
  int32_t budget_rows = 0;            // fetched a KV head and layer at the end; 0: attention is exact
};

struct TurnResult {
  FinishReason reason = FinishReason::kStopToken;
  TurnReport report;
};

enum class TurnPhase { kQueued, kLoading, kPrefill, kDecode };

// Receives a turn's events on the engine thread; must not block. After OnFinished nothing follows.
class TurnSink {
 public:
  virtual ~TurnSink() = default;
  // Prefill advances in layer-major units: done of total, in token-layers.
  virtual void OnProgress(TurnPhase phase, int64_t done, int64_t total) = 0;
  // `position` counts from 0 over the whole sequence; logprob is the model's, before sampling.
  virtual void OnToken(TokenId token, int64_t position, float logprob) = 0;
  // Errors: DataLoss (KV failed its check), Unavailable (store gone), ResourceExhausted.
  virtual void OnFinished(const absl::StatusOr<TurnResult>& result) = 0;
};

using TurnId = uint64_t;

struct ModelInfo {
  std::string name;
  Fingerprint weights, policy;
  int64_t context_tokens = 0;
  int32_t layers = 0, vocab = 0;
  std::vector<int32_t> quantized_layers;
  std::string policy_summary;  // one line: bits, channels, top_k, selector
};

struct EngineStats {
  int32_t sequences_live = 0, turns_running = 0, turns_queued = 0;
  int64_t tokens_generated = 0, tokens_prefilled = 0, tokens_reused = 0;
  int64_t decode_steps = 0, decode_rows = 0;  // rows: tokens through the model, one a turn and step
  int64_t checked_heads = 0;                              // by self-checks
  double captured_mass_sum = 0, output_error_sum = 0;     // over checked heads
  int64_t weight_bytes = 0, worker_kv_bytes = 0, worker_kv_limit_bytes = 0;
  StoreStats store;
};

class Engine {
 public:
  // `model`, `backend` and `store` outlive nothing: the engine owns them.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const EngineOptions& options,
                                                        std::unique_ptr<ModelFile> model,
                                                        LayerPolicy policy,
                                                        std::unique_ptr<Backend> backend,
                                                        std::unique_ptr<KvClient> store);
  virtual ~Engine() = default;  // cancels every turn, detaches every sequence

  // Admits a turn or refuses it at once. Errors: InvalidArgument (bad ids or limits, with thing,
  // value, limit), ResourceExhausted (says what would fit), FailedPrecondition (the sequence
  // already runs a turn). Every admitted turn ends in exactly one OnFinished.
  virtual absl::StatusOr<TurnId> Submit(TurnRequest request, std::shared_ptr<TurnSink> sink) = 0;
  // The turn ends with kCancelled at the next unit; its tokens so far stay in the sequence.
  virtual void Cancel(TurnId turn) = 0;

  // A new sequence equal to the parent's first `tokens` tokens that exist in the KV; blocks until the
  // engine thread did it. NotFound: the parent has no KV here or in the store (its history can still
  // be prefilled). FailedPrecondition: the parent runs a turn.
  virtual absl::Status Fork(const SequenceKey& parent, const SequenceKey& child) = 0;
  // Forgets the sequence's KV in worker and store; a running turn is cancelled first.
  virtual absl::Status Remove(const SequenceKey& sequence) = 0;

  virtual const ModelInfo& info() const = 0;
  virtual EngineStats stats() const = 0;
};

}  // namespace tailor
