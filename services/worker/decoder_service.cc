#include "services/worker/decoder_service.h"

#include "common/status.h"
#include "services/status_grpc.h"
#include "services/worker/generate_call.h"
#include "services/worker/request_parser.h"
#include "services/worker/response_writer.h"

namespace tailor {
namespace {

// A call that ends before it began.
class RefusedCall final : public grpc::ServerWriteReactor<v1::GenerateEvent> {
 public:
  explicit RefusedCall(const absl::Status& why) { Finish(ToGrpc(why)); }
  void OnDone() override { delete this; }
};

}  // namespace

grpc::ServerWriteReactor<v1::GenerateEvent>* DecoderService::Generate(
    grpc::CallbackServerContext*, const v1::GenerateRequest* request) {
  const absl::StatusOr<std::shared_ptr<Engine>> engine = state_->engine();
  if (!engine.ok()) return new RefusedCall(engine.status());
  absl::StatusOr<TurnRequest> turn = ParseTurnRequest(*request, options_.attention_default);
  if (!turn.ok()) return new RefusedCall(turn.status());
  return GenerateCall::Start(*engine, *std::move(turn), running_, options_.max_queued_tokens);
}

grpc::Status DecoderService::Cancel(grpc::ServerContext*, const v1::CancelRequest* request,
                                    v1::CancelResponse* response) {
  const absl::StatusOr<SequenceKey> key = ParseSequenceKey(request->sequence(), "sequence");
  if (!key.ok()) return ToGrpc(key.status());
  response->set_was_running(running_->Cancel(*key));
  return grpc::Status::OK;
}

grpc::Status DecoderService::Fork(grpc::ServerContext*, const v1::ForkRequest* request,
                                  v1::ForkResponse*) {
  const absl::StatusOr<SequenceKey> parent = ParseSequenceKey(request->parent(), "parent");
  if (!parent.ok()) return ToGrpc(parent.status());
  const absl::StatusOr<SequenceKey> child = ParseSequenceKey(request->child(), "child");
  if (!child.ok()) return ToGrpc(child.status());
  if (parent->tenant != child->tenant) {
    return ToGrpc(absl::PermissionDeniedError("parent and child are of different tenants"));
  }
  const absl::StatusOr<std::shared_ptr<Engine>> engine = state_->engine();
  if (!engine.ok()) return ToGrpc(engine.status());
  return ToGrpc((*engine)->Fork(*parent, *child));
}

grpc::Status DecoderService::Remove(grpc::ServerContext*, const v1::RemoveRequest* request,
                                    v1::RemoveResponse*) {
  const absl::StatusOr<SequenceKey> key = ParseSequenceKey(request->sequence(), "sequence");
  if (!key.ok()) return ToGrpc(key.status());
  const absl::StatusOr<std::shared_ptr<Engine>> engine = state_->engine();
  if (!engine.ok()) return ToGrpc(engine.status());
  return ToGrpc((*engine)->Remove(*key));
}

grpc::Status DecoderService::GetModelInfo(grpc::ServerContext*, const v1::GetModelInfoRequest*,
                                          v1::GetModelInfoResponse* response) {
  WriteProgress(state_->progress(), response);
  const absl::StatusOr<std::shared_ptr<Engine>> engine = state_->engine();
  if (engine.ok()) WriteModelInfo((*engine)->info(), response->mutable_model());
  return grpc::Status::OK;
}

grpc::Status DecoderService::GetWorkerStats(grpc::ServerContext*, const v1::GetWorkerStatsRequest*,
                                            v1::GetWorkerStatsResponse* response) {
  const absl::StatusOr<std::shared_ptr<Engine>> engine = state_->engine();
  if (!engine.ok()) return ToGrpc(engine.status());
  WriteStats((*engine)->stats(), response);
  return grpc::Status::OK;
}

}  // namespace tailor
