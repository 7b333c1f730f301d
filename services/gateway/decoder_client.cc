#include "services/gateway/decoder_client.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <thread>

#include "common/log.h"
#include "common/status.h"
#include "services/gateway/turn_clock.h"
#include "services/status_grpc.h"

namespace tailor {
namespace {

constexpr auto kFirstRetry = std::chrono::milliseconds(100);
constexpr auto kLastRetry = std::chrono::milliseconds(2000);
constexpr auto kAskWhileWaiting = std::chrono::milliseconds(100);
constexpr int kMaxMessageBytes = 64 << 20;  // a history of millions of ids

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  // A worker that is started again is found soon, not after gRPC's default two minutes.
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

void SetDeadline(grpc::ClientContext& context, int64_t timeout_ms) {
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(timeout_ms));
}

v1::SequenceKey Key(const std::string& tenant, const std::string& name) {
  v1::SequenceKey key;
  key.set_tenant(tenant);
  key.set_name(name);
  return key;
}

v1::GenerateFinished Ended(v1::FinishReason reason) {
  v1::GenerateFinished finished;
  finished.set_reason(reason);
  return finished;
}

// Passes tokens on, until there is a stop.
absl::StatusOr<TurnControl> PassOn(const v1::GeneratedTokens& tokens, int64_t next_position,
                                   const TurnCallbacks& callbacks, std::vector<TokenId>* received) {
  if (tokens.first_position() != next_position) {
    return absl::InternalError(
        absl::StrCat("worker sent token ", tokens.first_position(), ", next is ", next_position));
  }
  for (const int32_t id : tokens.ids()) {
    received->push_back(id);
    if (callbacks.on_token(id) == TurnControl::kStop) return TurnControl::kStop;
  }
  return TurnControl::kContinue;
}

// kStop when the receiver wanted so before the pause was over.
TurnControl Pause(std::chrono::milliseconds pause, const TurnCallbacks& callbacks) {
  const auto end = std::chrono::steady_clock::now() + pause;
  while (true) {
    if (callbacks.on_wait() == TurnControl::kStop) return TurnControl::kStop;
    const auto left = end - std::chrono::steady_clock::now();
    if (left <= left.zero()) return TurnControl::kContinue;
    std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(left, kAskWhileWaiting));
  }
}

// Callbacks that also tell the clock.
TurnCallbacks Timed(const TurnCallbacks& callbacks, TurnClock* clock) {
  return {.on_progress =
              [&callbacks, clock](const v1::TurnProgress& progress) {
                clock->OnProgress(progress.phase(), std::chrono::steady_clock::now());
                return callbacks.on_progress(progress);
              },
          .on_token =
              [&callbacks, clock](TokenId token) {
                clock->OnToken(std::chrono::steady_clock::now());
                return callbacks.on_token(token);
              },
          .on_wait = callbacks.on_wait};
}

// Prepares the request that goes on behind `received`. The reason when there is nothing left to do:
// then only the report was lost.
std::optional<v1::FinishReason> Advance(const std::vector<TokenId>& received,
                                        v1::GenerateRequest* request) {
  request->mutable_history()->Add(received.begin(), received.end());
  request->set_resumed_tokens(request->resumed_tokens() + static_cast<int32_t>(received.size()));
  request->set_max_new_tokens(request->max_new_tokens() - static_cast<int32_t>(received.size()));
  const auto& stops = request->stop_tokens();
  if (!received.empty() && std::find(stops.begin(), stops.end(), received.back()) != stops.end()) {
    return v1::FINISH_REASON_STOP;
  }
  if (request->max_new_tokens() <= 0) return v1::FINISH_REASON_LENGTH;
  return std::nullopt;
}

}  // namespace

DecoderClient::DecoderClient(const DecoderClientOptions& options)
    : options_(options), stub_(v1::DecoderService::NewStub(MakeChannel(options.address))) {}

v1::GenerateFinished DecoderClient::StopTurn(const v1::SequenceKey& sequence,
                                             GenerateStream* stream) {
  grpc::ClientContext context;
  SetDeadline(context, options_.control_timeout_ms);
  v1::CancelRequest request;
  *request.mutable_sequence() = sequence;
  v1::CancelResponse response;
  if (!stub_->Cancel(&context, request, &response).ok()) stream->TryCancel();
  v1::GenerateFinished finished;
  const auto give_up =
      std::chrono::steady_clock::now() + std::chrono::milliseconds(options_.control_timeout_ms);
  while (true) {
    const GenerateStream::Next next = stream->Wait(kAskWhileWaiting);
    if (next == GenerateStream::Next::kEnd) break;
    if (next == GenerateStream::Next::kEvent && stream->event().has_finished()) {
      finished = stream->event().finished();
    }
    if (std::chrono::steady_clock::now() > give_up) break;  // the stream's end cancels the call
  }
  finished.set_reason(v1::FINISH_REASON_CANCELLED);
  return finished;
}

absl::StatusOr<v1::GenerateFinished> DecoderClient::GenerateOnce(const v1::GenerateRequest& request,
                                                                 const TurnCallbacks& callbacks,
                                                                 std::vector<TokenId>* received) {
  GenerateStream stream(stub_.get(), request);
  v1::GenerateFinished finished;
  while (true) {
    const GenerateStream::Next next = stream.Wait(kAskWhileWaiting);
    if (next == GenerateStream::Next::kEnd) break;
    auto control = TurnControl::kContinue;
    if (next == GenerateStream::Next::kNothingYet) {
      control = callbacks.on_wait();
    } else if (stream.event().has_progress()) {
      control = callbacks.on_progress(stream.event().progress());
    } else if (stream.event().has_tokens()) {
      const auto next_position =
          static_cast<int64_t>(request.history_size()) + static_cast<int64_t>(received->size());
      TS_ASSIGN_OR_RETURN(control,
                          PassOn(stream.event().tokens(), next_position, callbacks, received));
    } else if (stream.event().has_finished()) {
      finished = stream.event().finished();
    }
    if (control == TurnControl::kStop) return StopTurn(request.sequence(), &stream);
  }
  const grpc::Status status = stream.Finish();
  if (!status.ok()) return FromGrpc(status);
  if (finished.reason() == v1::FINISH_REASON_UNSPECIFIED) {
    return absl::InternalError("worker ended the turn without a result");
  }
  return finished;
}

absl::StatusOr<v1::GenerateFinished> DecoderClient::Generate(v1::GenerateRequest request,
                                                             const TurnCallbacks& callbacks) {
  using Clock = std::chrono::steady_clock;
  TurnClock clock(Clock::now());
  const TurnCallbacks timed = Timed(callbacks, &clock);
  std::optional<Clock::time_point> give_up;  // since the last token, or the first failure
  auto pause = kFirstRetry;
  while (true) {
    std::vector<TokenId> received;
    absl::StatusOr<v1::GenerateFinished> finished = GenerateOnce(request, timed, &received);
    if (!absl::IsUnavailable(finished.status())) {
      const bool resumed = give_up.has_value();
      if (finished.ok() && (resumed || !finished->has_report())) {
        clock.WriteTo(finished->mutable_report());
      }
      return finished;
    }
    // The worker is gone or not ready: go on behind the last token that was seen.
    if (const auto reason = Advance(received, &request)) {
      v1::GenerateFinished all = Ended(*reason);
      clock.WriteTo(all.mutable_report());
      return all;
    }
    if (!received.empty() || !give_up.has_value()) {
      give_up = Clock::now() + std::chrono::milliseconds(options_.resume_timeout_ms);
      pause = kFirstRetry;
    }
    if (Clock::now() + pause > *give_up) return finished.status();
    spdlog::warn("worker is unavailable, turn goes on at token {} in {} ms: {}",
                 request.history_size(), pause.count(), std::string(finished.status().message()));
    v1::TurnProgress queued;
    queued.set_phase(v1::TURN_PHASE_QUEUED);
    if (callbacks.on_progress(queued) == TurnControl::kStop ||
        Pause(pause, callbacks) == TurnControl::kStop) {
      v1::GenerateFinished stopped = Ended(v1::FINISH_REASON_CANCELLED);
      clock.WriteTo(stopped.mutable_report());
      return stopped;
    }
    clock.OnAttempt(Clock::now());
    pause = std::min(pause * 2, kLastRetry);
  }
}

absl::Status DecoderClient::Fork(const std::string& tenant, const std::string& parent,
                                 const std::string& child) {
  grpc::ClientContext context;
  SetDeadline(context, options_.control_timeout_ms);
  v1::ForkRequest request;
  *request.mutable_parent() = Key(tenant, parent);
  *request.mutable_child() = Key(tenant, child);
  v1::ForkResponse response;
  return FromGrpc(stub_->Fork(&context, request, &response));
}

absl::Status DecoderClient::Remove(const std::string& tenant, const std::string& sequence) {
  grpc::ClientContext context;
  SetDeadline(context, options_.control_timeout_ms);
  v1::RemoveRequest request;
  *request.mutable_sequence() = Key(tenant, sequence);
  v1::RemoveResponse response;
  return FromGrpc(stub_->Remove(&context, request, &response));
}

}  // namespace tailor
