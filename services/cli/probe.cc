#include "services/cli/probe.h"

#include <grpcpp/grpcpp.h>

#include <chrono>

#include "absl/strings/str_cat.h"
#include "tailor/v1/chat.grpc.pb.h"
#include "tailor/v1/decoder.grpc.pb.h"
#include "tailor/v1/kvstore.grpc.pb.h"

namespace tailor {
namespace {

constexpr std::chrono::milliseconds kProbeTimeout{2000};
constexpr std::chrono::milliseconds kLoadProbeTimeout{300};

std::shared_ptr<grpc::Channel> Connect(const std::string& address) {
  return grpc::CreateChannel(address, grpc::InsecureChannelCredentials());
}

void SetTimeout(grpc::ClientContext* context, std::chrono::milliseconds timeout) {
  context->set_deadline(std::chrono::system_clock::now() + timeout);
}

Health HealthOf(const grpc::Status& status) {
  if (status.ok()) return {true, "ok"};
  return {false, absl::StrCat("no answer (", status.error_message(), ")")};
}

Health HealthOf(const v1::GetModelInfoResponse& info) {
  switch (info.phase()) {
    case v1::WORKER_PHASE_SERVING:
      return {true, "ok"};
    case v1::WORKER_PHASE_LOADING:
      return {false, info.total() > 0
                         ? absl::StrCat(info.activity(), " ", 100 * info.done() / info.total(), "%")
                         : info.activity()};
    default:
      return {false, info.activity()};
  }
}

void ProbeStore(const std::string& address, ServiceSnapshot* out) {
  const auto stub = v1::KvStore::NewStub(Connect(address));
  grpc::ClientContext context;
  SetTimeout(&context, kProbeTimeout);
  v1::GetStatsResponse stats;
  const grpc::Status status = stub->GetStats(&context, {}, &stats);
  out->kvstore = HealthOf(status);
  if (status.ok()) out->store = stats;
}

void ProbeWorker(const std::string& address, ServiceSnapshot* out) {
  const auto stub = v1::DecoderService::NewStub(Connect(address));
  grpc::ClientContext context, stats_context;
  SetTimeout(&context, kProbeTimeout);
  v1::GetModelInfoResponse info;
  const grpc::Status status = stub->GetModelInfo(&context, {}, &info);
  out->worker = status.ok() ? HealthOf(info) : HealthOf(status);
  if (!status.ok()) return;
  out->model = info;
  SetTimeout(&stats_context, kProbeTimeout);
  v1::GetWorkerStatsResponse stats;
  if (stub->GetWorkerStats(&stats_context, {}, &stats).ok()) out->stats = stats;
}

void ProbeGateway(const std::string& address, const std::string& api_key, ServiceSnapshot* out) {
  const auto stub = v1::ChatService::NewStub(Connect(address));
  grpc::ClientContext context;
  SetTimeout(&context, kProbeTimeout);
  if (!api_key.empty()) context.AddMetadata("authorization", absl::StrCat("Bearer ", api_key));
  v1::ListSessionsRequest request;
  request.set_page_size(1);
  v1::ListSessionsResponse response;
  const grpc::Status status = stub->ListSessions(&context, request, &response);
  out->gateway = HealthOf(status);
  // It answered, though not us.
  if (status.error_code() == grpc::StatusCode::UNAUTHENTICATED) out->gateway = {true, "ok"};
}

}  // namespace

ServiceSnapshot ProbeServices(const RunState& state, const std::string& api_key) {
  ServiceSnapshot snapshot;
  ProbeStore(state.kvstore_address, &snapshot);
  ProbeWorker(state.worker_address, &snapshot);
  ProbeGateway(state.gateway_address, api_key, &snapshot);
  return snapshot;
}

std::optional<LoadProgress> ProbeLoad(const std::string& worker_address) {
  const auto stub = v1::DecoderService::NewStub(Connect(worker_address));
  grpc::ClientContext context;
  SetTimeout(&context, kLoadProbeTimeout);
  v1::GetModelInfoResponse info;
  if (!stub->GetModelInfo(&context, {}, &info).ok()) return std::nullopt;
  return LoadProgress{info.activity(), info.done(), info.total()};
}

}  // namespace tailor
