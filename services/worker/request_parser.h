// Requests of the worker's API, checked: what leaves here is in range.
#pragma once

#include "absl/status/statusor.h"
#include "tailor/v1/decoder.pb.h"
#include "worker/engine.h"

namespace tailor {

inline constexpr int kMaxStopTokens = 64;
inline constexpr int32_t kMaxNewTokens = 1 << 24;

// Errors of all three: InvalidArgument "stop_tokens has 65 ids, limit 64".
// `field` names the key in messages.
absl::StatusOr<SequenceKey> ParseSequenceKey(const v1::SequenceKey& key, const char* field);
absl::StatusOr<SamplingParams> ParseSampling(const v1::SamplingParams& params);
// `attention_default` is for requests that do not say. The vocabulary is the engine's to check.
absl::StatusOr<TurnRequest> ParseTurnRequest(const v1::GenerateRequest& request,
                                             AttentionMode attention_default);

}  // namespace tailor
