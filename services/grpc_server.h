// How every process of ours serves gRPC: one address, health, reflection, and no silent sharing of
// an address with another process.
#pragma once

#include <grpcpp/server.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace tailor {

class GrpcServer {
 public:
  struct Options {
    std::string address;                   // HOST:PORT (port 0: any free one) or unix:PATH
    std::vector<grpc::Service*> services;  // outlive the server
    int max_message_bytes = 16 << 20;      // received
  };
  // Health starts as NOT_SERVING. Errors: AlreadyExists "address ... is busy", InvalidArgument.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(const Options& options);
  ~GrpcServer();  // Shutdown

  // Of all services, and of "": what a health probe without a name asks.
  void SetHealthy(bool healthy);
  // Refuses new calls, cancels the running ones after `grace_ms`, and returns when all have ended.
  void Shutdown(int64_t grace_ms);

  // The address that was bound: with the port that was chosen.
  const std::string& address() const { return address_; }

 private:
  GrpcServer() = default;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

}  // namespace tailor
