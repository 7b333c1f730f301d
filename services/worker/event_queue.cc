#include "services/worker/event_queue.h"

#include <utility>

namespace tailor {

using Kind = QueuedEvent::Kind;

void EventQueue::PushProgress(const ProgressEvent& event) {
  if (!events_.empty()) {
    QueuedEvent& last = events_.back();
    if (last.kind == Kind::kProgress && last.progress.phase == event.phase) {
      last.progress = event;
      return;
    }
  }
  if (events_.size() < kMaxProgressDepth) {
    events_.push_back({.kind = Kind::kProgress, .progress = event});
  }
}

bool EventQueue::PushToken(TokenId token, int64_t position, float logprob) {
  if (queued_tokens_ >= max_queued_tokens_) return false;
  const auto joins = [position](const QueuedEvent& last) {
    const auto count = static_cast<int64_t>(last.tokens.ids.size());
    return last.kind == Kind::kTokens && count < kMaxBatchTokens &&
           last.tokens.first_position + count == position;
  };
  if (events_.empty() || !joins(events_.back())) {
    events_.push_back({.kind = Kind::kTokens, .tokens = {.first_position = position}});
  }
  TokensEvent& batch = events_.back().tokens;
  batch.ids.push_back(token);
  batch.logprobs.push_back(logprob);
  ++queued_tokens_;
  return true;
}

std::optional<QueuedEvent> EventQueue::Pop() {
  if (events_.empty()) return std::nullopt;
  std::optional<QueuedEvent> event(std::move(events_.front()));
  events_.pop_front();
  queued_tokens_ -= static_cast<int64_t>(event->tokens.ids.size());
  return event;
}

void EventQueue::Clear() {
  events_.clear();
  queued_tokens_ = 0;
}

}  // namespace tailor
