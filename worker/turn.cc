#include "worker/turn.h"

#include <algorithm>

#include "common/status.h"
#include "worker/admission.h"

namespace tailor {
namespace {

double MillisBetween(Turn::Clock::time_point from, Turn::Clock::time_point to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

}  // namespace

absl::Status BeginTurn(const LlamaModel& model, SequenceCache* cache, int64_t spare_bytes,
                       Turn& turn) {
  turn.started = Turn::Clock::now();
  turn.report.queue_ms = MillisBetween(turn.submitted, turn.started);
  turn.cache = cache;
  cache->StartTurn(static_cast<int64_t>(turn.request.history.size()) -
                   turn.request.resumed_tokens);
  (void)cache->TakeChecks();
  turn.rows_fetched_before = cache->totals().rows_fetched;
  turn.bytes_fetched_before = cache->totals().bytes_fetched;
  const auto& history = turn.request.history;
  turn.report.reused_tokens = cache->tokens();
  turn.report.prefilled_tokens = static_cast<int64_t>(history.size()) - cache->tokens();
  TS_RETURN_IF_ERROR(cache->Reserve(TurnTokens(turn.request)));
  const int64_t prefill_end = static_cast<int64_t>(history.size()) - turn.request.resumed_tokens;
  turn.sampler.emplace(turn.request.sampling, std::span(history).first(prefill_end),
                       std::span(history).subspan(prefill_end));
  if (cache->tokens() >= prefill_end) {
    turn.newest = history[cache->tokens()];
    turn.stage = TurnStage::kDecoding;
    return absl::OkStatus();
  }
  TS_ASSIGN_OR_RETURN(
      turn.prefill,
      Prefill::Start(model, {history.begin() + cache->tokens(), history.begin() + prefill_end},
                     *cache, spare_bytes));
  turn.stage = TurnStage::kPrefilling;
  return absl::OkStatus();
}

std::optional<FinishReason> EmitToken(const Sample& sample, int64_t context_tokens, Turn& turn) {
  const int64_t position = turn.total_tokens();
  turn.newest = sample.token;
  if (turn.report.generated_tokens++ == 0) {
    turn.first_token = Turn::Clock::now();
    turn.report.prefill_ms = MillisBetween(turn.started, turn.first_token);
    turn.report.time_to_first_token_ms = MillisBetween(turn.submitted, turn.first_token);
  }
  turn.sink->OnToken(sample.token, position, sample.logprob);
  const auto& stops = turn.request.stop_tokens;
  if (std::find(stops.begin(), stops.end(), sample.token) != stops.end()) {
    return FinishReason::kStopToken;
  }
  if (turn.report.generated_tokens >= turn.request.max_new_tokens) return FinishReason::kLength;
  if (turn.total_tokens() >= context_tokens) return FinishReason::kContextFull;
  return std::nullopt;
}

void CompleteReport(Turn& turn) {
  TurnReport& report = turn.report;
  if (report.generated_tokens > 1) {
    report.decode_ms = MillisBetween(turn.first_token, Turn::Clock::now());
    report.tokens_per_second =
        static_cast<double>(report.generated_tokens - 1) * 1000.0 / report.decode_ms;
  }
  if (turn.cache == nullptr) return;
  const CacheTotals totals = turn.cache->totals();
  report.rows_fetched = totals.rows_fetched - turn.rows_fetched_before;
  report.bytes_fetched = totals.bytes_fetched - turn.bytes_fetched_before;
  const CheckTotals checks = turn.cache->TakeChecks();
  if (checks.heads > 0) {
    report.checked_heads = checks.heads;
    report.captured_mass_mean = checks.captured_mass_sum / static_cast<double>(checks.heads);
    report.captured_mass_worst = checks.worst_captured_mass;
    report.output_error_mean = checks.output_error_sum / static_cast<double>(checks.heads);
  }
  report.budget_rows = turn.request.attention == AttentionMode::kFull ? 0 : turn.cache->budget_rows();
  report.bytes = {.quantized_codes = totals.worker.codes,
                  .resident = totals.worker.resident,
                  .store_rows = totals.store_rows,
                  .store_index = totals.store_index,
                  .sketch = totals.worker.sketch,
                  .row_cache = totals.worker.row_cache};
}

void CountReport(const TurnReport& report, EngineStats& stats) {
  stats.tokens_generated += report.generated_tokens;
  stats.tokens_prefilled += report.prefilled_tokens;
  stats.tokens_reused += report.reused_tokens;
  const auto heads = static_cast<double>(report.checked_heads);
  stats.checked_heads += report.checked_heads;
  stats.captured_mass_sum += report.captured_mass_mean * heads;
  stats.output_error_sum += report.output_error_mean * heads;
}

}  // namespace tailor
