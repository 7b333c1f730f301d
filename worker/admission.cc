#include "worker/admission.h"

#include <span>

#include "common/status.h"

namespace tailor {
namespace {

absl::Status CheckIds(std::span<const TokenId> ids, const char* what, int32_t vocab) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab) {
      return absl::InvalidArgumentError(
          absl::StrCat(what, " token ", i, " is ", ids[i], ", limit 0..", vocab - 1));
    }
  }
  return absl::OkStatus();
}

CacheMode ModeOf(const TurnRequest& request) {
  return request.attention == AttentionMode::kFull ? CacheMode::kFull : CacheMode::kHybrid;
}

}  // namespace

int64_t TurnTokens(const TurnRequest& request) {
  return static_cast<int64_t>(request.history.size()) + request.max_new_tokens - 1;
}

int64_t QuoteTurn(const TurnRequest& request, const LayerPolicy& policy, const PoolShape& shape) {
  return SequenceCache::Quote(policy, shape, ModeOf(request), TurnTokens(request)).total();
}

absl::Status AdmitTurn(const TurnRequest& request, const AdmissionLimits& limits,
                       const LayerPolicy& policy, const PoolShape& shape, int64_t running_bytes) {
  if (request.sequence.name.empty()) {
    return absl::InvalidArgumentError("sequence name is empty, needs at least 1 byte");
  }
  if (request.history.empty()) {
    return absl::InvalidArgumentError("history has 0 tokens, needs at least 1");
  }
  if (request.resumed_tokens < 0 ||
      request.resumed_tokens >= static_cast<int64_t>(request.history.size())) {
    return absl::InvalidArgumentError(absl::StrCat("resumed_tokens is ", request.resumed_tokens,
                                                   ", limit 0..", request.history.size() - 1));
  }
  if (request.max_new_tokens < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_new_tokens is ", request.max_new_tokens, ", limit 1.."));
  }
  const int64_t history = static_cast<int64_t>(request.history.size());
  if (history + request.max_new_tokens > limits.context_tokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        "prompt has ", history, " tokens and max_new_tokens is ", request.max_new_tokens,
        ", the context holds ", limits.context_tokens, " together"));
  }
  TS_RETURN_IF_ERROR(CheckIds(request.history, "history", limits.vocab));
  TS_RETURN_IF_ERROR(CheckIds(request.stop_tokens, "stop", limits.vocab));
  TS_RETURN_IF_ERROR(request.sampling.Validate());
  const int64_t quote = QuoteTurn(request, policy, shape);
  if (limits.worker_memory_bytes > 0 && running_bytes + quote > limits.worker_memory_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "turn needs ", quote, " bytes of worker memory, ",
        limits.worker_memory_bytes - running_bytes, " of ", limits.worker_memory_bytes,
        " are not taken by running turns"));
  }
  return absl::OkStatus();
}

}  // namespace tailor
