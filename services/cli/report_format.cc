#include "services/cli/report_format.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "services/cli/terminal.h"

namespace tailor {
namespace {

using nlohmann::json;

// The first token of an answer comes from the prefill's own logits: it fetches nothing.
double PerToken(int64_t total, const v1::TurnReport& report) {
  const int64_t decoded = std::max<int64_t>(report.generated_tokens() - 1, 1);
  return static_cast<double>(total) / static_cast<double>(decoded);
}

const char* AttentionName(v1::AttentionMode mode) {
  switch (mode) {
    case v1::ATTENTION_MODE_HYBRID:
      return "hybrid";
    case v1::ATTENTION_MODE_FULL:
      return "full";
    default:
      return "default";
  }
}

// What only a worker that selects on its device keeps.
std::string DeviceText(const v1::TierBytes& bytes) {
  if (bytes.sketch() == 0 && bytes.row_cache() == 0) return "";
  return absl::StrCat(", ", ShortBytes(bytes.sketch()), " sketch, ", ShortBytes(bytes.row_cache()),
                      " row cache");
}

}  // namespace

const char* FinishReasonName(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_STOP:
      return "stop";
    case v1::FINISH_REASON_LENGTH:
      return "length";
    case v1::FINISH_REASON_CONTEXT_FULL:
      return "context_full";
    case v1::FINISH_REASON_CANCELLED:
      return "cancelled";
    default:
      return "unknown";
  }
}

std::string ReportText(const v1::TurnReport& report) {
  const v1::TierBytes& bytes = report.bytes();
  std::string text =
      absl::StrFormat("  tokens   %d reused, %d prefilled, %d generated\n", report.reused_tokens(),
                      report.prefilled_tokens(), report.generated_tokens());
  absl::StrAppendFormat(
      &text,
      "  time     %.2f s to the first token (queued %.2f s, prefill %.2f s), then "
      "%.1f tokens/s\n",
      report.time_to_first_token_ms() / 1000, report.queue_ms() / 1000, report.prefill_ms() / 1000,
      report.tokens_per_second());
  absl::StrAppend(&text, "  KV       worker: ", ShortBytes(bytes.quantized_codes()), " quantized, ",
                  ShortBytes(bytes.resident()), " resident", DeviceText(bytes),
                  "; store: ", ShortBytes(bytes.store_rows()), " rows, ",
                  ShortBytes(bytes.store_index()), " index\n");
  absl::StrAppend(
      &text, "  fetched  ",
      ShortCount(static_cast<int64_t>(PerToken(report.rows_fetched(), report))), " rows, ",
      ShortBytes(static_cast<int64_t>(PerToken(report.bytes_fetched(), report))), " per token\n");
  if (report.checked_heads() > 0) {
    absl::StrAppendFormat(
        &text,
        "  checked  %d heads: %.2f%% of the exact attention mass seen (worst %.2f%%), output off by "
        "%.2f%%, %s\n",
        report.checked_heads(), 100 * report.captured_mass_mean(),
        100 * report.captured_mass_worst(), 100 * report.output_error_mean(),
        report.budget_rows() > 0 ? absl::StrCat("budget ", report.budget_rows(), " rows")
                                 : "attention exact from here");
  }
  return text;
}

json ReportJson(const v1::TurnReport& report) {
  return {{"reused_tokens", report.reused_tokens()},
          {"prefilled_tokens", report.prefilled_tokens()},
          {"generated_tokens", report.generated_tokens()},
          {"queue_ms", report.queue_ms()},
          {"prefill_ms", report.prefill_ms()},
          {"time_to_first_token_ms", report.time_to_first_token_ms()},
          {"decode_ms", report.decode_ms()},
          {"tokens_per_second", report.tokens_per_second()},
          {"rows_fetched", report.rows_fetched()},
          {"bytes_fetched", report.bytes_fetched()},
          {"rows_fetched_per_token", PerToken(report.rows_fetched(), report)},
          {"bytes_fetched_per_token", PerToken(report.bytes_fetched(), report)},
          {"checked_heads", report.checked_heads()},
          {"captured_mass_mean", report.captured_mass_mean()},
          {"captured_mass_worst", report.captured_mass_worst()},
          {"output_error_mean", report.output_error_mean()},
          {"budget_rows", report.budget_rows()},
          {"bytes",
           {{"quantized_codes", report.bytes().quantized_codes()},
            {"resident", report.bytes().resident()},
            {"store_rows", report.bytes().store_rows()},
            {"store_index", report.bytes().store_index()},
            {"sketch", report.bytes().sketch()},
            {"row_cache", report.bytes().row_cache()}}}};
}

std::string AnswerJson(const std::string& session, const std::string& question,
                       const v1::ChatFinished& finished) {
  const json answer = {{"session", session},
                       {"question", question},
                       {"answer", finished.text()},
                       {"finish_reason", FinishReasonName(finished.reason())},
                       {"session_tokens", finished.session_tokens()},
                       {"report", ReportJson(finished.report())}};
  return Dump(answer) + "\n";
}

json SessionJson(const v1::Session& session) {
  return {{"id", session.id()},
          {"title", session.title()},
          {"created_unix_ms", session.created_unix_ms()},
          {"updated_unix_ms", session.updated_unix_ms()},
          {"tokens", session.tokens()},
          {"messages", session.messages()},
          {"attention", AttentionName(session.attention())},
          {"parent_id", session.parent_id()},
          {"documents",
           std::vector<std::string>(session.documents().begin(), session.documents().end())}};
}

std::string Dump(const json& value, int indent) {
  return value.dump(indent, ' ', false, json::error_handler_t::replace);
}

}  // namespace tailor
