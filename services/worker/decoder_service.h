// START HERE. The worker's RPCs over an Engine: parse, call, translate. Generate streams from the
// engine thread by callbacks (generate_call.h); the others are short and may block a gRPC thread.
#pragma once

#include <memory>

#include "services/worker/running_turns.h"
#include "services/worker/worker_state.h"
#include "tailor/v1/decoder.grpc.pb.h"

namespace tailor {

struct DecoderServiceOptions {
  AttentionMode attention_default = AttentionMode::kHybrid;
  int64_t max_queued_tokens = 8192;  // see EventQueue
};

class DecoderService final
    : public v1::DecoderService::WithCallbackMethod_Generate<v1::DecoderService::Service> {
 public:
  // `state` outlives the service.
  DecoderService(const DecoderServiceOptions& options, const WorkerState* state)
      : options_(options), state_(state) {}

  grpc::ServerWriteReactor<v1::GenerateEvent>* Generate(
      grpc::CallbackServerContext*, const v1::GenerateRequest* request) override;
  grpc::Status Cancel(grpc::ServerContext*, const v1::CancelRequest* request,
                      v1::CancelResponse* response) override;
  grpc::Status Fork(grpc::ServerContext*, const v1::ForkRequest* request,
                    v1::ForkResponse*) override;
  grpc::Status Remove(grpc::ServerContext*, const v1::RemoveRequest* request,
                      v1::RemoveResponse*) override;
  grpc::Status GetModelInfo(grpc::ServerContext*, const v1::GetModelInfoRequest*,
                            v1::GetModelInfoResponse* response) override;
  grpc::Status GetWorkerStats(grpc::ServerContext*, const v1::GetWorkerStatsRequest*,
                              v1::GetWorkerStatsResponse* response) override;

 private:
  const DecoderServiceOptions options_;
  const WorkerState* const state_;
  const std::shared_ptr<RunningTurns> running_ = std::make_shared<RunningTurns>();
};

}  // namespace tailor
