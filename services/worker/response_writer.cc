#include "services/worker/response_writer.h"

#include "common/status.h"
#include "services/kv_control/convert.h"

namespace tailor {
namespace {

v1::TurnPhase ToProto(TurnPhase phase) {
  switch (phase) {
    case TurnPhase::kQueued:
      return v1::TURN_PHASE_QUEUED;
    case TurnPhase::kLoading:
      return v1::TURN_PHASE_LOADING;
    case TurnPhase::kPrefill:
      return v1::TURN_PHASE_PREFILL;
    case TurnPhase::kDecode:
      return v1::TURN_PHASE_DECODE;
  }
  TS_CHECK(false);
}

v1::FinishReason ToProto(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStopToken:
      return v1::FINISH_REASON_STOP;
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case FinishReason::kContextFull:
      return v1::FINISH_REASON_CONTEXT_FULL;
    case FinishReason::kCancelled:
      return v1::FINISH_REASON_CANCELLED;
  }
  TS_CHECK(false);
}

v1::WorkerPhase ToProto(WorkerPhase phase) {
  switch (phase) {
    case WorkerPhase::kLoading:
      return v1::WORKER_PHASE_LOADING;
    case WorkerPhase::kServing:
      return v1::WORKER_PHASE_SERVING;
    case WorkerPhase::kStopping:
      return v1::WORKER_PHASE_STOPPING;
    case WorkerPhase::kFailed:
      return v1::WORKER_PHASE_FAILED;
  }
  TS_CHECK(false);
}

void WriteReport(const TurnReport& report, v1::TurnReport* out) {
  out->set_reused_tokens(report.reused_tokens);
  out->set_prefilled_tokens(report.prefilled_tokens);
  out->set_generated_tokens(report.generated_tokens);
  out->set_queue_ms(report.queue_ms);
  out->set_prefill_ms(report.prefill_ms);
  out->set_time_to_first_token_ms(report.time_to_first_token_ms);
  out->set_decode_ms(report.decode_ms);
  out->set_tokens_per_second(report.tokens_per_second);
  out->set_rows_fetched(report.rows_fetched);
  out->set_bytes_fetched(report.bytes_fetched);
  out->set_checked_heads(report.checked_heads);
  out->set_captured_mass_mean(report.captured_mass_mean);
  out->set_captured_mass_worst(report.captured_mass_worst);
  out->set_output_error_mean(report.output_error_mean);
  out->set_budget_rows(report.budget_rows);
  v1::TierBytes* bytes = out->mutable_bytes();
  bytes->set_quantized_codes(report.bytes.quantized_codes);
  bytes->set_resident(report.bytes.resident);
  bytes->set_store_rows(report.bytes.store_rows);
  bytes->set_store_index(report.bytes.store_index);
  bytes->set_sketch(report.bytes.sketch);
  bytes->set_row_cache(report.bytes.row_cache);
}

}  // namespace

void WriteEvent(const ProgressEvent& event, v1::GenerateEvent* out) {
  v1::TurnProgress* progress = out->mutable_progress();
  progress->set_phase(ToProto(event.phase));
  progress->set_done(event.done);
  progress->set_total(event.total);
}

void WriteEvent(const TokensEvent& event, v1::GenerateEvent* out) {
  v1::GeneratedTokens* tokens = out->mutable_tokens();
  tokens->set_first_position(event.first_position);
  tokens->mutable_ids()->Assign(event.ids.begin(), event.ids.end());
  tokens->mutable_logprobs()->Assign(event.logprobs.begin(), event.logprobs.end());
}

void WriteEvent(const TurnResult& result, v1::GenerateEvent* out) {
  out->mutable_finished()->set_reason(ToProto(result.reason));
  WriteReport(result.report, out->mutable_finished()->mutable_report());
}

void WriteModelInfo(const ModelInfo& info, v1::ModelInfo* out) {
  out->set_name(info.name);
  out->set_weights_fingerprint(info.weights.ToHex());
  out->set_policy_fingerprint(info.policy.ToHex());
  out->set_context_tokens(info.context_tokens);
  out->set_layers(info.layers);
  out->set_vocab(info.vocab);
  out->mutable_quantized_layers()->Assign(info.quantized_layers.begin(),
                                          info.quantized_layers.end());
  out->set_policy_summary(info.policy_summary);
}

void WriteProgress(const WorkerProgress& progress, v1::GetModelInfoResponse* out) {
  out->set_phase(ToProto(progress.phase));
  out->set_activity(progress.activity);
  out->set_done(progress.done);
  out->set_total(progress.total);
  out->set_uptime_seconds(progress.seconds);
}

void WriteStats(const EngineStats& stats, v1::GetWorkerStatsResponse* out) {
  out->set_sequences_live(stats.sequences_live);
  out->set_turns_running(stats.turns_running);
  out->set_turns_queued(stats.turns_queued);
  out->set_tokens_generated(stats.tokens_generated);
  out->set_tokens_prefilled(stats.tokens_prefilled);
  out->set_tokens_reused(stats.tokens_reused);
  out->set_decode_steps(stats.decode_steps);
  out->set_decode_rows(stats.decode_rows);
  out->set_checked_heads(stats.checked_heads);
  out->set_captured_mass_sum(stats.captured_mass_sum);
  out->set_output_error_sum(stats.output_error_sum);
  out->set_weight_bytes(stats.weight_bytes);
  out->set_worker_kv_bytes(stats.worker_kv_bytes);
  out->set_worker_kv_limit_bytes(stats.worker_kv_limit_bytes);
  Fill(stats.store, out->mutable_store());
}

}  // namespace tailor
