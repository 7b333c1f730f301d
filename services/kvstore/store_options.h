// What a tailor-kvstore is told at start: flags, each with an environment variable
// TAILOR_KVSTORE_*.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"

namespace tailor {

struct StoreOptions {
  int64_t arena_bytes = int64_t{2} << 30;  // taken whole at start, or the store does not start
  std::string socket = "/tmp/tailor-kvstore.data.sock";  // data plane: a unix socket's path
  std::string listen = "127.0.0.1:8004";                 // control: HOST:PORT or unix:PATH
  int selection_threads = 1;
  int64_t spin_us = 20;
  std::string log_level = "info";
  bool die_with_parent = false;  // SIGTERM when the parent ends
  int ready_fd = -1;             // "ready\n" is written here once the store serves

  // Errors: InvalidArgument names flag, value, limit.
  absl::Status Validate() const;
};

// Options to run with, or an exit code after help, version or an error was printed.
struct ParsedStoreCommandLine {
  std::optional<StoreOptions> options;
  int exit_code = 0;
};
ParsedStoreCommandLine ParseStoreCommandLine(int argc, const char* const* argv);

}  // namespace tailor
