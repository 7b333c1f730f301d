#include "worker/admission.h"

#include <algorithm>
#include <limits>
#include <span>

#include "common/status.h"
#include "worker/model/prefill.h"

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

absl::Status CheckMemory(const TurnQuote& quote, const AdmissionLimits& limits,
                         const TurnQuote& running) {
  const auto refusal = [](int64_t needed, const char* what, int64_t limit, int64_t taken) {
    return absl::ResourceExhaustedError(absl::StrCat("turn needs ", needed, " bytes of ", what,
                                                     ", ", limit - taken, " of ", limit,
                                                     " are not taken by running turns"));
  };
  if (limits.worker_memory_bytes > 0 &&
      running.kv_bytes + quote.kv_bytes > limits.worker_memory_bytes) {
    return refusal(quote.kv_bytes, "worker memory", limits.worker_memory_bytes, running.kv_bytes);
  }
  // The prefills come one after the other.
  const int64_t taken =
      running.kv_bytes + std::max<int64_t>(0, running.prefill_bytes - quote.prefill_bytes);
  const int64_t needed = quote.kv_bytes + quote.prefill_bytes;
  if (limits.device_memory_bytes > 0 && taken + needed > limits.device_memory_bytes) {
    return refusal(needed, "device memory", limits.device_memory_bytes, taken);
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

// A prefill's bytes fall with the past, those of the past's sketch grow by pages: the most is at
// one of the ends. The sketch of the tokens themselves comes when the prefill's bytes have gone.
TurnQuote QuoteTurn(const TurnRequest& request, const AdmissionLimits& limits,
                    const LayerPolicy& policy, const PoolShape& shape) {
  const auto quote = [&](int64_t tokens) {
    return SequenceCache::Quote(policy, shape, ModeOf(request), tokens);
  };
  const LayerBytes kv = quote(TurnTokens(request));
  const auto history = static_cast<int64_t>(request.history.size());
  const int64_t unsealed = (history - 1 - policy.WindowTokens()) % kPageTokens;
  TurnQuote turn = {.kv_bytes = kv.total()};
  for (const int64_t past : {int64_t{0}, history - 1 - std::max<int64_t>(0, unsealed)}) {
    const int64_t bytes =
        Prefill::Bytes(shape, limits.hidden, past, history, limits.host_memory_is_far);
    turn.prefill_bytes = std::max(turn.prefill_bytes, bytes - kv.sketch + quote(past).sketch);
  }
  return turn;
}

AdmissionLimits AdmissionLimits::Of(const EngineOptions& options, const LlamaHyperparameters& model,
                                    const Backend& backend) {
  return {.context_tokens = options.context_tokens > 0
                                ? std::min(options.context_tokens, model.context_tokens)
                                : model.context_tokens,
          .vocab = model.vocab,
          .worker_memory_bytes = options.worker_memory_bytes,
          .hidden = model.hidden,
          .host_memory_is_far = backend.host_memory_is_far()};
}

int64_t AdmissionLimits::IdleBytes(const TurnQuote& running) const {
  int64_t bytes = std::numeric_limits<int64_t>::max();
  if (worker_memory_bytes > 0) bytes = worker_memory_bytes - running.kv_bytes;
  if (device_memory_bytes > 0) bytes = std::min(bytes, SpareBytes(running, 0));
  return bytes;
}

int64_t AdmissionLimits::SpareBytes(const TurnQuote& running, int64_t idle_bytes) const {
  if (device_memory_bytes == 0) return std::numeric_limits<int64_t>::max();
  return device_memory_bytes - running.kv_bytes - running.prefill_bytes - idle_bytes;
}

TurnQuote RunningQuotes::Total() const {
  TurnQuote total;
  for (const auto& [key, quote] : quotes_) {
    total.kv_bytes += quote.kv_bytes;
    total.prefill_bytes = std::max(total.prefill_bytes, quote.prefill_bytes);
  }
  return total;
}

absl::Status AdmissionLimits::LimitToWhatIsLeft(const Backend& backend,
                                                const LlamaHyperparameters& model, int64_t rows) {
  const int64_t budget = backend.MemoryBudget(model, rows, context_tokens);
  if (budget == 0) return absl::OkStatus();
  device_memory_bytes = budget - backend.allocated_bytes();
  if (device_memory_bytes > 0) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("device memory: the model takes ",
                                                   backend.allocated_bytes(), " bytes of ", budget,
                                                   ", which leaves none for a turn"));
}

absl::Status AdmitTurn(const TurnRequest& request, const AdmissionLimits& limits,
                       const LayerPolicy& policy, const PoolShape& shape,
                       const TurnQuote& running) {
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
  return CheckMemory(QuoteTurn(request, limits, policy, shape), limits, running);
}

}  // namespace tailor
