// Turn reports and sessions, for people and for programs.
//
// JSON of an answer, one line each, keys never renamed:
//   session, question, answer, finish_reason ("stop" | "length" | "context_full" | "cancelled"),
//   session_tokens, report {reused_tokens, prefilled_tokens, generated_tokens, queue_ms,
//   prefill_ms, time_to_first_token_ms, decode_ms, tokens_per_second, rows_fetched, bytes_fetched,
//   rows_fetched_per_token, bytes_fetched_per_token,
//   bytes {quantized_codes, resident, store_rows, store_index, sketch, row_cache}}
#pragma once

#include <string>

#include "nlohmann/json_fwd.hpp"
#include "tailor/v1/chat.pb.h"

namespace tailor {

const char* FinishReasonName(v1::FinishReason reason);
// Four lines, indented.
std::string ReportText(const v1::TurnReport& report);
nlohmann::json ReportJson(const v1::TurnReport& report);
// One line with its newline.
std::string AnswerJson(const std::string& session, const std::string& question,
                       const v1::ChatFinished& finished);
nlohmann::json SessionJson(const v1::Session& session);
// Any bytes are safe: what is not UTF-8 is replaced.
std::string Dump(const nlohmann::json& value, int indent = -1);

}  // namespace tailor
