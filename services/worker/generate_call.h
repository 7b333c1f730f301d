// One Generate RPC: the engine's events on one side, the client's stream on the other.
//
//   engine thread: OnProgress, OnToken, OnFinished -> EventQueue -> one write at a time -> client
//   client gone or deadline passed: OnCancel -> Engine::Cancel, and the call still waits for
//   OnFinished
//
// Finish is called exactly once: after OnFinished, when nothing is queued or being written.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <memory>
#include <mutex>
#include <optional>

#include "services/worker/event_queue.h"
#include "services/worker/running_turns.h"
#include "tailor/v1/decoder.pb.h"
#include "worker/engine.h"

namespace tailor {

class GenerateCall final : public grpc::ServerWriteReactor<v1::GenerateEvent>,
                           public TurnSink,
                           public CancellableTurn,
                           public std::enable_shared_from_this<GenerateCall> {
 public:
  // Submits the turn. The result owns itself until OnDone; a refused turn ends the call at once.
  static GenerateCall* Start(const std::shared_ptr<Engine>& engine, TurnRequest request,
                             std::shared_ptr<RunningTurns> running, int64_t max_queued_tokens);

  // TurnSink: on the engine thread.
  void OnProgress(TurnPhase phase, int64_t done, int64_t total) override;
  void OnToken(TokenId token, int64_t position, float logprob) override;
  void OnFinished(const absl::StatusOr<TurnResult>& result) override;

  // From any thread.
  void CancelTurn() override;

  // Reactor: on gRPC's threads.
  void OnWriteDone(bool ok) override;
  void OnCancel() override { CancelTurn(); }
  void OnDone() override;

 private:
  GenerateCall(const std::shared_ptr<Engine>& engine, SequenceKey key,
               std::shared_ptr<RunningTurns> running, int64_t max_queued_tokens);
  void Submit(Engine& engine, TurnRequest request);
  // Starts the next write, or ends the call, if that is due. Call without the lock.
  void Advance();
  bool NextMessage(v1::GenerateEvent* message);  // with the lock

  // Weak: a turn's sink is released on the engine thread, which cannot destroy its own engine.
  const std::weak_ptr<Engine> engine_;
  const SequenceKey key_;
  const std::shared_ptr<RunningTurns> running_;
  std::shared_ptr<GenerateCall> self_;  // until OnDone

  std::mutex mutex_;
  // Guarded by mutex_:
  EventQueue queue_;
  std::optional<TurnId> turn_;
  std::optional<absl::StatusOr<TurnResult>> result_;  // once the engine has finished
  absl::Status fault_;  // why the call ends badly though the engine's turn did not
  bool cancel_requested_ = false, broken_ = false, writing_ = false, finish_sent_ = false,
       ended_ = false;

  v1::GenerateEvent message_;  // being written; touched only by the owner of writing_
};

}  // namespace tailor
