// A turn's events between the engine thread, which must never wait, and an RPC whose client may
// read slowly. What queues up is merged: tokens into batches, progress into its newest state. Not
// thread-safe: GenerateCall locks.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "worker/engine.h"

namespace tailor {

struct ProgressEvent {
  TurnPhase phase = TurnPhase::kQueued;
  int64_t done = 0, total = 0;
};

struct TokensEvent {
  int64_t first_position = 0;
  std::vector<TokenId> ids{};
  std::vector<float> logprobs{};  // of the same tokens
};

struct QueuedEvent {
  enum class Kind { kProgress, kTokens } kind = Kind::kProgress;
  ProgressEvent progress{};  // of kProgress
  TokensEvent tokens{};      // of kTokens
};

class EventQueue {
 public:
  // Batches stay well below gRPC's message limit.
  static constexpr int64_t kMaxBatchTokens = 1024;
  // Progress beyond so many queued events is dropped; tokens never are.
  static constexpr size_t kMaxProgressDepth = 16;

  // Tokens a client may lag behind. More: patience with slow clients. Fewer: less memory for each.
  explicit EventQueue(int64_t max_queued_tokens) : max_queued_tokens_(max_queued_tokens) {}

  void PushProgress(const ProgressEvent& event);
  // False when the client lags too far behind: the token is not queued.
  bool PushToken(TokenId token, int64_t position, float logprob);
  std::optional<QueuedEvent> Pop();  // the oldest
  bool empty() const { return events_.empty(); }
  void Clear();

 private:
  const int64_t max_queued_tokens_;
  std::deque<QueuedEvent> events_;
  int64_t queued_tokens_ = 0;
};

}  // namespace tailor
