#include "services/gateway/decoder_client.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "common/log.h"
#include "common/status.h"
#include "services/status_grpc.h"

namespace tailor {
namespace {

constexpr auto kFirstRetry = std::chrono::milliseconds(100);
constexpr auto kLastRetry = std::chrono::milliseconds(2000);
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

v1::GenerateFinished Stopped() {
  v1::GenerateFinished finished;
  finished.set_reason(v1::FINISH_REASON_CANCELLED);
  return finished;
}

}  // namespace

DecoderClient::DecoderClient(const DecoderClientOptions& options)
    : options_(options), stub_(v1::DecoderService::NewStub(MakeChannel(options.address))) {}

absl::StatusOr<v1::GenerateFinished> DecoderClient::GenerateOnce(
    const v1::GenerateRequest& request, const TurnCallbacks& callbacks,
    std::vector<TokenId>* received) {
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, request);
  v1::GenerateEvent event;
  v1::GenerateFinished finished;
  int64_t next_position = request.history_size();
  bool stopped = false;
  const auto obey = [&](TurnControl control) {
    if (control == TurnControl::kStop && !stopped) {
      stopped = true;
      context.TryCancel();
    }
  };
  while (!stopped && reader->Read(&event)) {
    if (event.has_progress()) obey(callbacks.on_progress(event.progress()));
    if (event.has_finished()) finished = event.finished();
    if (!event.has_tokens()) continue;
    if (event.tokens().first_position() != next_position) {
      context.TryCancel();
      (void)reader->Finish();
      return absl::InternalError(absl::StrCat("worker sent token ", event.tokens().first_position(),
                                              ", next is ", next_position));
    }
    for (const int32_t id : event.tokens().ids()) {
      ++next_position;
      received->push_back(id);
      obey(callbacks.on_token(id));
      if (stopped) break;
    }
  }
  const grpc::Status status = reader->Finish();
  if (stopped) return Stopped();
  if (!status.ok()) return FromGrpc(status);
  if (finished.reason() == v1::FINISH_REASON_UNSPECIFIED) {
    return absl::InternalError("worker ended the turn without a result");
  }
  return finished;
}

absl::StatusOr<v1::GenerateFinished> DecoderClient::Generate(v1::GenerateRequest request,
                                                             const TurnCallbacks& callbacks) {
  const auto give_up =
      std::chrono::steady_clock::now() + std::chrono::milliseconds(options_.resume_timeout_ms);
  auto pause = kFirstRetry;
  int64_t generated_before = 0;
  while (true) {
    std::vector<TokenId> received;
    auto finished = GenerateOnce(request, callbacks, &received);
    if (!absl::IsUnavailable(finished.status())) {
      if (finished.ok() && generated_before > 0) {
        v1::TurnReport* report = finished->mutable_report();
        report->set_generated_tokens(report->generated_tokens() + generated_before);
      }
      return finished;
    }
    // The worker is gone or not ready: go on behind the last token that was seen.
    request.mutable_history()->Add(received.begin(), received.end());
    request.set_resumed_tokens(request.resumed_tokens() + static_cast<int32_t>(received.size()));
    request.set_max_new_tokens(request.max_new_tokens() - static_cast<int32_t>(received.size()));
    generated_before += static_cast<int64_t>(received.size());
    const bool last_was_stop =
        !received.empty() && std::find(request.stop_tokens().begin(), request.stop_tokens().end(),
                                       received.back()) != request.stop_tokens().end();
    if (request.max_new_tokens() <= 0 || last_was_stop) {
      v1::GenerateFinished all;  // only the report was lost
      all.set_reason(last_was_stop ? v1::FINISH_REASON_STOP : v1::FINISH_REASON_LENGTH);
      all.mutable_report()->set_generated_tokens(generated_before);
      return all;
    }
    if (!received.empty()) pause = kFirstRetry;
    if (std::chrono::steady_clock::now() + pause > give_up) return finished.status();
    spdlog::warn("worker is unavailable, turn goes on at token {} in {} ms: {}",
                 request.history_size(), pause.count(), std::string(finished.status().message()));
    v1::TurnProgress queued;  // also finds a client that went away meanwhile
    queued.set_phase(v1::TURN_PHASE_QUEUED);
    if (callbacks.on_progress(queued) == TurnControl::kStop) return Stopped();
    std::this_thread::sleep_for(pause);
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

absl::StatusOr<v1::GetModelInfoResponse> DecoderClient::ModelInfo() {
  grpc::ClientContext context;
  SetDeadline(context, options_.control_timeout_ms);
  v1::GetModelInfoResponse response;
  TS_RETURN_IF_ERROR(
      FromGrpc(stub_->GetModelInfo(&context, v1::GetModelInfoRequest(), &response)));
  return response;
}

}  // namespace tailor
