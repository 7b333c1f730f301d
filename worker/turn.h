// One turn in the engine: its request, where it stands, what it reports. Engine thread only, but for
// `cancelled`.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>

#include "worker/engine.h"
#include "worker/model/decode_step.h"
#include "worker/model/prefill.h"
#include "worker/sampling/sampler.h"
#include "worker/scheduler/scheduler.h"

namespace tailor {

struct Turn {
  using Clock = std::chrono::steady_clock;

  TurnId id = 0;
  TurnRequest request;
  std::shared_ptr<TurnSink> sink;
  std::atomic<bool> cancelled{false};  // set by any thread, read between units

  TurnStage stage = TurnStage::kWaiting;
  SequenceCache* cache = nullptr;      // from the start of the prefill on
  std::unique_ptr<Prefill> prefill;
  std::optional<Sampler> sampler;
  TokenId newest = 0;                  // sampled or resumed, its KV not computed yet
  int64_t rows_fetched_before = 0;     // by earlier turns of the sequence
  int64_t bytes_fetched_before = 0;
  TurnReport report;
  Clock::time_point submitted, started, first_token;

  CacheMode mode() const {
    return request.attention == AttentionMode::kFull ? CacheMode::kFull : CacheMode::kHybrid;
  }
  // Resumed tokens whose KV is lost are decoded again before anything is sampled.
  bool replays() const {
    return cache->tokens() < static_cast<int64_t>(request.history.size());
  }
  int64_t total_tokens() const {
    return static_cast<int64_t>(request.history.size()) + report.generated_tokens;
  }
};

// Reserves room and prepares the prefill; a turn with nothing to prefill starts decoding at once.
// spare_bytes: of Prefill::Start. Errors leave the sequence as it was.
absl::Status BeginTurn(const LlamaModel& model, SequenceCache* cache, int64_t spare_bytes,
                       Turn& turn);

// Emits the turn's next token. Returns the reason to stop, if any.
std::optional<FinishReason> EmitToken(const Sample& sample, int64_t context_tokens, Turn& turn);

// Fills in what is known at the end: times, rates, bytes.
void CompleteReport(Turn& turn);
// Adds what an ended turn did to the engine's sums.
void CountReport(const TurnReport& report, EngineStats& stats);

}  // namespace tailor
