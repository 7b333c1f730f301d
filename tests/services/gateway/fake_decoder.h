// A worker whose turns are scripts of the test, served in the test's process.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "common/types.h"
#include "services/grpc_server.h"
#include "tailor/v1/decoder.grpc.pb.h"

namespace tailor {

class FakeDecoder final : public v1::DecoderService::Service {
 public:
  // One Generate call, as a script sees it.
  class Turn {
   public:
    Turn(FakeDecoder* decoder, grpc::ServerContext* context, const v1::GenerateRequest* request,
         grpc::ServerWriter<v1::GenerateEvent>* writer)
        : decoder_(*decoder),
          context_(*context),
          request_(*request),
          writer_(*writer),
          position_(request->history_size()) {}
    const v1::GenerateRequest& request() const { return request_; }
    void Progress(v1::TurnPhase phase);
    void Tokens(const std::vector<TokenId>& ids, int64_t position_error = 0);
    grpc::Status Finished(v1::FinishReason reason, const v1::TurnReport& report = {});
    // Waits until the turn is to end; false when nobody asked within 20 s.
    enum class EndedBy { kNobody, kCancelCall, kClientGone };
    EndedBy AwaitEnd();

   private:
    FakeDecoder& decoder_;
    grpc::ServerContext& context_;
    const v1::GenerateRequest& request_;
    grpc::ServerWriter<v1::GenerateEvent>& writer_;
    int64_t position_;
  };
  using Script = std::function<grpc::Status(Turn&)>;

  explicit FakeDecoder(const std::string& address = "127.0.0.1:0") : address_(address) { Start(); }
  ~FakeDecoder() override { Stop(); }
  void Start();
  void Stop();  // as if killed: open calls break
  std::string address() const { return server_ == nullptr ? address_ : server_->address(); }

  // The next turns; without one, UNAVAILABLE.
  void Next(Script script);
  void NextAnswer(const std::vector<TokenId>& ids, v1::FinishReason reason,
                  const v1::TurnReport& report = {});
  void SetControlStatus(const grpc::Status& status);  // of Fork and Remove
  void SetOnRemove(std::function<void()> on_remove);  // runs inside Remove
  void SetOnFork(std::function<void()> on_fork);

  std::vector<v1::GenerateRequest> requests();
  std::vector<std::string> forks();  // "parent>child"
  std::vector<std::string> removed();
  bool AwaitRequests(size_t count);  // within 20 s

  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                        grpc::ServerWriter<v1::GenerateEvent>* writer) override;
  grpc::Status Cancel(grpc::ServerContext*, const v1::CancelRequest* request,
                      v1::CancelResponse* response) override;
  grpc::Status Fork(grpc::ServerContext*, const v1::ForkRequest* request,
                    v1::ForkResponse*) override;
  grpc::Status Remove(grpc::ServerContext*, const v1::RemoveRequest* request,
                      v1::RemoveResponse*) override;

 private:
  static constexpr std::chrono::seconds kPatience{20};
  const std::string address_;
  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_:
  std::deque<Script> scripts_;
  std::vector<v1::GenerateRequest> requests_;
  std::vector<std::string> forks_, removed_;
  std::vector<std::string> cancelled_;  // sequences with a Cancel call that no turn has seen yet
  grpc::Status control_status_;
  std::function<void()> on_remove_, on_fork_;

  std::unique_ptr<GrpcServer> server_;
};

}  // namespace tailor
