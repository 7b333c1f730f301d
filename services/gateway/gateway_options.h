// The flags of tailor-gateway. Each has an environment variable TAILOR_GATEWAY_*.
#pragma once

#include <optional>
#include <string>

namespace tailor {

struct GatewayOptions {
  std::string model;  // for its tokenizer and template only
  std::string listen = "127.0.0.1:8001";
  bool insecure_listen = false;  // allows an address that others can reach, in plain text
  std::string worker;            // gRPC target
  std::string database = "sessions.db";
  bool durable_power = false;
  int64_t context_tokens = 0;  // the worker's limit of a conversation; 0: the model's
  int default_max_tokens = 512;
  int resume_timeout_ms = 60000;
  std::string log_level = "info";
  bool die_with_parent = false;
  int ready_fd = -1;
};

struct ParsedGatewayCommandLine {
  std::optional<GatewayOptions> options;
  int exit_code = 0;  // when there are none: --help, or a usage error (already printed)
};

ParsedGatewayCommandLine ParseGatewayCommandLine(int argc, char** argv);

}  // namespace tailor
