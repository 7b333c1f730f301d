#include "services/worker/request_parser.h"

#include "common/status.h"
#include "services/kv_control/convert.h"

namespace tailor {
namespace {

absl::Status CheckIds(const char* field, const google::protobuf::RepeatedField<int32_t>& ids) {
  for (int i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(field, "[", i, "] is ", ids[i], ", limit 0.. (a token id)"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<AttentionMode> ParseAttention(v1::AttentionMode mode,
                                             AttentionMode attention_default) {
  switch (mode) {
    case v1::ATTENTION_MODE_UNSPECIFIED:
      return attention_default;
    case v1::ATTENTION_MODE_HYBRID:
      return AttentionMode::kHybrid;
    case v1::ATTENTION_MODE_FULL:
      return AttentionMode::kFull;
    default:
      return absl::InvalidArgumentError(
          absl::StrCat("attention is ", static_cast<int>(mode), ", limit 0..2"));
  }
}

absl::Status CheckLimits(const v1::GenerateRequest& request) {
  if (request.history().empty()) {
    return absl::InvalidArgumentError("history has 0 ids, limit 1..");
  }
  if (request.resumed_tokens() < 0 || request.resumed_tokens() >= request.history_size()) {
    return absl::InvalidArgumentError(absl::StrCat("resumed_tokens is ", request.resumed_tokens(),
                                                   ", limit 0..", request.history_size() - 1));
  }
  if (request.max_new_tokens() < 1 || request.max_new_tokens() > kMaxNewTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_new_tokens is ", request.max_new_tokens(), ", limit 1..", kMaxNewTokens));
  }
  if (request.stop_tokens_size() > kMaxStopTokens) {
    return absl::InvalidArgumentError(absl::StrCat("stop_tokens has ", request.stop_tokens_size(),
                                                   " ids, limit ", kMaxStopTokens));
  }
  TS_RETURN_IF_ERROR(CheckIds("history", request.history()));
  return CheckIds("stop_tokens", request.stop_tokens());
}

}  // namespace

absl::StatusOr<SequenceKey> ParseSequenceKey(const v1::SequenceKey& key, const char* field) {
  const absl::StatusOr<SequenceKey> parsed = ParseKey(key);
  if (parsed.ok()) return parsed;
  return absl::Status(parsed.status().code(),
                      absl::StrCat(field, ": ", std::string(parsed.status().message())));
}

absl::StatusOr<SamplingParams> ParseSampling(const v1::SamplingParams& params) {
  SamplingParams parsed;
  if (params.has_temperature()) parsed.temperature = params.temperature();
  if (params.has_top_k()) parsed.top_k = params.top_k();
  if (params.has_top_p()) parsed.top_p = params.top_p();
  if (params.has_min_p()) parsed.min_p = params.min_p();
  if (params.has_repetition_penalty()) parsed.repetition_penalty = params.repetition_penalty();
  if (params.has_presence_penalty()) parsed.presence_penalty = params.presence_penalty();
  if (params.has_frequency_penalty()) parsed.frequency_penalty = params.frequency_penalty();
  if (params.has_seed()) parsed.seed = params.seed();
  TS_RETURN_IF_ERROR(parsed.Validate());
  return parsed;
}

absl::StatusOr<TurnRequest> ParseTurnRequest(const v1::GenerateRequest& request,
                                             AttentionMode attention_default) {
  TS_RETURN_IF_ERROR(CheckLimits(request));
  TurnRequest turn;
  TS_ASSIGN_OR_RETURN(turn.sequence, ParseSequenceKey(request.sequence(), "sequence"));
  TS_ASSIGN_OR_RETURN(turn.attention, ParseAttention(request.attention(), attention_default));
  TS_ASSIGN_OR_RETURN(turn.sampling, ParseSampling(request.sampling()));
  turn.history.assign(request.history().begin(), request.history().end());
  turn.stop_tokens.assign(request.stop_tokens().begin(), request.stop_tokens().end());
  turn.max_new_tokens = request.max_new_tokens();
  turn.resumed_tokens = request.resumed_tokens();
  return turn;
}

}  // namespace tailor
