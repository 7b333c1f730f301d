#include "services/grpc_server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <chrono>
#include <cstring>

#include "common/status.h"
#include "common/unique_handle.h"

namespace tailor {
namespace {

constexpr char kUnixPrefix[] = "unix:";
constexpr int64_t kDefaultGraceMs = 2000;

bool IsUnix(const std::string& address) { return address.rfind(kUnixPrefix, 0) == 0; }

// gRPC removes whatever socket file is there and binds anew: two servers would both believe to
// serve.
absl::Status CheckUnixPathIsFree(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("socket path ", path, " has ", path.size(),
                                                   " bytes, limit 1..",
                                                   sizeof(address.sun_path) - 1));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  const UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) {
    return absl::AlreadyExistsError(absl::StrCat("address unix:", path, " is busy"));
  }
  return absl::OkStatus();
}

std::string BoundAddress(const std::string& asked, int port) {
  if (IsUnix(asked)) return asked;
  return absl::StrCat(asked.substr(0, asked.rfind(':')), ":", port);
}

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(const Options& options) {
  if (IsUnix(options.address)) {
    TS_RETURN_IF_ERROR(CheckUnixPathIsFree(options.address.substr(std::strlen(kUnixPrefix))));
  }
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  std::unique_ptr<GrpcServer> result(new GrpcServer());
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // a busy port is an error, not a share
  builder.SetMaxReceiveMessageSize(options.max_message_bytes);
  builder.AddListeningPort(options.address, grpc::InsecureServerCredentials(), &port);
  for (grpc::Service* service : options.services) builder.RegisterService(service);
  result->server_ = builder.BuildAndStart();
  if (result->server_ == nullptr || port == 0) {
    return absl::AlreadyExistsError(
        absl::StrCat("address ", options.address, " is busy, or not one of this machine's"));
  }
  result->address_ = BoundAddress(options.address, port);
  result->SetHealthy(false);
  return result;
}

void GrpcServer::SetHealthy(bool healthy) {
  server_->GetHealthCheckService()->SetServingStatus(healthy);
}

void GrpcServer::Shutdown(int64_t grace_ms) {
  if (server_ == nullptr) return;
  server_->GetHealthCheckService()->Shutdown();
  server_->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(grace_ms));
  server_.reset();
}

GrpcServer::~GrpcServer() { Shutdown(kDefaultGraceMs); }

}  // namespace tailor
