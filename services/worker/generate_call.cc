#include "services/worker/generate_call.h"

#include "common/status.h"
#include "services/status_grpc.h"
#include "services/worker/response_writer.h"

namespace tailor {

GenerateCall::GenerateCall(const std::shared_ptr<Engine>& engine, SequenceKey key,
                           std::shared_ptr<RunningTurns> running, int64_t max_queued_tokens)
    : engine_(engine),
      key_(std::move(key)),
      running_(std::move(running)),
      queue_(max_queued_tokens) {}

GenerateCall* GenerateCall::Start(const std::shared_ptr<Engine>& engine, TurnRequest request,
                                  std::shared_ptr<RunningTurns> running,
                                  int64_t max_queued_tokens) {
  std::shared_ptr<GenerateCall> call(
      new GenerateCall(engine, request.sequence, std::move(running), max_queued_tokens));
  call->self_ = call;  // OnDone lets go
  call->Submit(*engine, std::move(request));
  return call.get();
}

void GenerateCall::Submit(Engine& engine, TurnRequest request) {
  const absl::StatusOr<TurnId> turn = engine.Submit(std::move(request), self_);
  if (!turn.ok()) {
    Finish(ToGrpc(turn.status()));
    return;
  }
  running_->Add(key_, weak_from_this());
  bool cancel = false, over = false;
  {
    const std::lock_guard lock(mutex_);
    turn_ = *turn;
    cancel = cancel_requested_;
    over = result_.has_value();
  }
  if (cancel) engine.Cancel(*turn);
  if (over) running_->Remove(key_, this);  // it finished before it was added
}

void GenerateCall::OnProgress(TurnPhase phase, int64_t done, int64_t total) {
  {
    const std::lock_guard lock(mutex_);
    if (!broken_) queue_.PushProgress({phase, done, total});
  }
  Advance();
}

void GenerateCall::OnToken(TokenId token, int64_t position, float logprob) {
  bool lags = false;
  {
    const std::lock_guard lock(mutex_);
    if (broken_) return;
    lags = !queue_.PushToken(token, position, logprob);
    if (lags) {
      broken_ = true;
      queue_.Clear();
      fault_ = absl::ResourceExhaustedError(
          absl::StrCat("the client reads too slowly: token ", position,
                       " does not fit the queue; the turn was cancelled"));
    }
  }
  if (lags) CancelTurn();
  Advance();
}

void GenerateCall::OnFinished(const absl::StatusOr<TurnResult>& result) {
  {
    const std::lock_guard lock(mutex_);
    TS_CHECK(!result_.has_value());  // the engine's promise: exactly one
    result_ = result;
  }
  running_->Remove(key_, this);
  Advance();
}

void GenerateCall::CancelTurn() {
  std::optional<TurnId> turn;
  {
    const std::lock_guard lock(mutex_);
    cancel_requested_ = true;  // Submit looks at it when it has the turn's id
    if (!result_.has_value()) turn = turn_;
  }
  const std::shared_ptr<Engine> engine = turn.has_value() ? engine_.lock() : nullptr;
  if (engine != nullptr) engine->Cancel(*turn);
}

bool GenerateCall::NextMessage(v1::GenerateEvent* message) {
  if (std::optional<QueuedEvent> event = queue_.Pop()) {
    if (event->kind == QueuedEvent::Kind::kTokens) {
      WriteEvent(event->tokens, message);
    } else {
      WriteEvent(event->progress, message);
    }
    return true;
  }
  if (!result_.has_value() || !result_->ok() || broken_ || finish_sent_) return false;
  WriteEvent(**result_, message);
  finish_sent_ = true;
  return true;
}

void GenerateCall::Advance() {
  std::optional<absl::Status> outcome;
  {
    const std::lock_guard lock(mutex_);
    if (writing_ || ended_) return;
    message_.Clear();
    if (NextMessage(&message_)) {
      writing_ = true;
    } else if (result_.has_value()) {
      ended_ = true;
      outcome = fault_.ok() ? result_->status() : fault_;
    } else {
      return;
    }
  }
  // From here on only this thread may act: others see writing_ or ended_. After Finish the object
  // may be gone.
  if (outcome.has_value()) {
    Finish(ToGrpc(*outcome));
  } else {
    StartWrite(&message_);
  }
}

void GenerateCall::OnWriteDone(bool ok) {
  {
    const std::lock_guard lock(mutex_);
    writing_ = false;
    if (!ok && !broken_) {
      broken_ = true;
      queue_.Clear();
      fault_ = absl::CancelledError("the client is gone");
    }
  }
  if (!ok) CancelTurn();
  Advance();
}

void GenerateCall::OnDone() { const std::shared_ptr<GenerateCall> last = std::move(self_); }

}  // namespace tailor
