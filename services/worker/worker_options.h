// What a tailor-worker is told at start: flags, each with an environment variable TAILOR_WORKER_*.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/engine.h"

namespace tailor {

// kAuto: cuda when a device answers, else cpu with the reason in the log. kCuda: that or nothing.
enum class BackendChoice { kAuto, kCpu, kCuda };

struct WorkerOptions {
  std::filesystem::path model;       // a .gguf file or a Hugging Face directory
  std::filesystem::path policy;      // empty: see policy_source.h
  std::filesystem::path policy_dir;  // holds <weights fingerprint>.json; empty: none
  AttentionMode attention_default = AttentionMode::kHybrid;  // of requests that do not say
  std::optional<Selector> selector;       // overrides the policy's; tokens stay the same
  std::optional<QueryMode> query;         // overrides the policy's
  std::string listen = "127.0.0.1:8003";  // gRPC: HOST:PORT or unix:PATH
  std::string kvstore;                    // gRPC target of the store's control plane
  std::string kvstore_socket;             // unix socket of its data plane
  int64_t local_store_bytes = 0;          // > 0: a store inside this process instead
  int threads = 0;                        // 0: one per core
  // Not kAuto until a GPU has passed tests/gpu (docs/cuda.md).
  BackendChoice backend = BackendChoice::kCpu;
  int device = 0;                         // of the CUDA backend
  std::filesystem::path cuda_module;      // empty: backend_cuda.so beside this program
  int64_t device_memory_bytes = 0;        // its budget; 0: 90 % of what is free at start
  EngineOptions engine;
  std::string log_level = "info";
  bool die_with_parent = false;  // SIGTERM when the parent ends
  int ready_fd = -1;             // "ready\n" is written here once the worker serves

  // Errors: InvalidArgument names flag, value, limit.
  absl::Status Validate() const;
};

// What the command line asked for: options to run with, or an exit code after the help, the version
// or an error was printed.
struct ParsedCommandLine {
  std::optional<WorkerOptions> options;
  int exit_code = 0;
};
ParsedCommandLine ParseWorkerCommandLine(int argc, const char* const* argv);

}  // namespace tailor
