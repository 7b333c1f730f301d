#include "tests/services/gateway/fake_decoder.h"

#include <algorithm>

#include "common/status.h"

namespace tailor {

using std::chrono::steady_clock;

void FakeDecoder::Turn::Progress(v1::TurnPhase phase) {
  v1::GenerateEvent event;
  event.mutable_progress()->set_phase(phase);
  writer_.Write(event);
}

void FakeDecoder::Turn::Tokens(const std::vector<TokenId>& ids, int64_t position_error) {
  v1::GenerateEvent event;
  event.mutable_tokens()->set_first_position(position_ + position_error);
  event.mutable_tokens()->mutable_ids()->Add(ids.begin(), ids.end());
  writer_.Write(event);
  position_ += static_cast<int64_t>(ids.size());
}

grpc::Status FakeDecoder::Turn::Finished(v1::FinishReason reason, const v1::TurnReport& report) {
  v1::GenerateEvent event;
  event.mutable_finished()->set_reason(reason);
  *event.mutable_finished()->mutable_report() = report;
  writer_.Write(event);
  return grpc::Status::OK;
}

FakeDecoder::Turn::EndedBy FakeDecoder::Turn::AwaitEnd() {
  const auto end = steady_clock::now() + kPatience;
  std::unique_lock lock(decoder_.mutex_);
  while (steady_clock::now() < end) {
    auto& cancelled = decoder_.cancelled_;
    const auto it = std::find(cancelled.begin(), cancelled.end(), request_.sequence().name());
    if (it != cancelled.end()) {
      cancelled.erase(it);
      return EndedBy::kCancelCall;
    }
    if (context_.IsCancelled()) return EndedBy::kClientGone;
    // A broken call is only seen by looking.
    decoder_.changed_.wait_for(lock, std::chrono::milliseconds(5));
  }
  return EndedBy::kNobody;
}

void FakeDecoder::Start() {
  auto server = GrpcServer::Start({.address = address_, .services = {this}});
  TS_CHECK(server.ok());
  server_ = *std::move(server);
}

void FakeDecoder::Stop() {
  if (server_ != nullptr) server_->Shutdown(0);
  server_.reset();
}

void FakeDecoder::Next(Script script) {
  const std::lock_guard lock(mutex_);
  scripts_.push_back(std::move(script));
}

void FakeDecoder::NextAnswer(const std::vector<TokenId>& ids, v1::FinishReason reason,
                             const v1::TurnReport& report) {
  Next([ids, reason, report](Turn& turn) {
    turn.Progress(v1::TURN_PHASE_PREFILL);
    turn.Tokens(ids);
    return turn.Finished(reason, report);
  });
}

void FakeDecoder::SetControlStatus(const grpc::Status& status) {
  const std::lock_guard lock(mutex_);
  control_status_ = status;
}
void FakeDecoder::SetOnRemove(std::function<void()> on_remove) {
  const std::lock_guard lock(mutex_);
  on_remove_ = std::move(on_remove);
}
void FakeDecoder::SetOnFork(std::function<void()> on_fork) {
  const std::lock_guard lock(mutex_);
  on_fork_ = std::move(on_fork);
}

std::vector<v1::GenerateRequest> FakeDecoder::requests() {
  const std::lock_guard lock(mutex_);
  return requests_;
}
std::vector<std::string> FakeDecoder::forks() {
  const std::lock_guard lock(mutex_);
  return forks_;
}
std::vector<std::string> FakeDecoder::removed() {
  const std::lock_guard lock(mutex_);
  return removed_;
}

bool FakeDecoder::AwaitRequests(size_t count) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kPatience, [&] { return requests_.size() >= count; });
}

grpc::Status FakeDecoder::Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                                   grpc::ServerWriter<v1::GenerateEvent>* writer) {
  Script script;
  {
    const std::lock_guard lock(mutex_);
    requests_.push_back(*request);
    if (!scripts_.empty()) {
      script = std::move(scripts_.front());
      scripts_.pop_front();
    }
    changed_.notify_all();
  }
  if (!script) return {grpc::StatusCode::UNAVAILABLE, "no script: the worker loads"};
  Turn turn(this, context, request, writer);
  return script(turn);
}

grpc::Status FakeDecoder::Cancel(grpc::ServerContext*, const v1::CancelRequest* request,
                                 v1::CancelResponse*) {
  const std::lock_guard lock(mutex_);
  cancelled_.push_back(request->sequence().name());
  changed_.notify_all();
  return grpc::Status::OK;
}

grpc::Status FakeDecoder::Fork(grpc::ServerContext*, const v1::ForkRequest* request,
                               v1::ForkResponse*) {
  std::function<void()> on_fork;
  {
    const std::lock_guard lock(mutex_);
    forks_.push_back(request->parent().name() + ">" + request->child().name());
    on_fork = on_fork_;
  }
  if (on_fork) on_fork();
  const std::lock_guard lock(mutex_);
  return control_status_;
}

grpc::Status FakeDecoder::Remove(grpc::ServerContext*, const v1::RemoveRequest* request,
                                 v1::RemoveResponse*) {
  std::function<void()> on_remove;
  {
    const std::lock_guard lock(mutex_);
    removed_.push_back(request->sequence().name());
    on_remove = on_remove_;
  }
  if (on_remove) on_remove();
  const std::lock_guard lock(mutex_);
  return control_status_;
}

}  // namespace tailor
