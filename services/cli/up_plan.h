// What `tailor up` starts: from its options to the command lines of the three processes. Pure.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "services/cli/process/run_dir.h"
#include "services/cli/process/supervisor.h"

namespace tailor {

struct UpOptions {
  std::filesystem::path model{};
  std::filesystem::path policy{}, policy_dir{};  // empty: the worker's own choice
  std::filesystem::path run_dir{};               // empty: RunDir::DefaultPath()
  std::filesystem::path log_dir{},
      data_dir{};                   // empty: below a given run_dir, else below ~/.tailor
  std::filesystem::path bin_dir{};  // of the other programs; empty: beside this one
  std::string host = "127.0.0.1";
  int port = 8001;
  bool insecure_listen = false;     // allows a host that others can reach, in plain text
  int64_t arena_bytes = 0;          // 0: DefaultArenaBytes
  int64_t worker_memory_bytes = 0;  // 0: no limit
  int64_t context_tokens = 0;       // 0: the model's
  int prefill_chunk_tokens = 0;     // 0: the worker's default
  int threads = 0;                  // 0: one per core
  std::string backend{};            // auto, cpu or cuda; empty: the worker's default
  int64_t device_memory_bytes = 0;  // 0: the worker's default
  std::filesystem::path cuda_module{};  // empty: the one beside the worker
  std::string attention = "hybrid";
  std::string selector{}, query{};  // empty: the policy's
  std::string log_level = "info";
  double stop_timeout_s = 10;
};

// Where things are, all absolute.
struct UpPaths {
  std::filesystem::path bin_dir, log_dir, data_dir;
  std::string gateway_address;                  // HOST:PORT
  std::string worker_address, kvstore_address;  // unix:PATH
  std::filesystem::path kvstore_data_socket;
};

// A quarter of the memory that is available, at most 2 GiB, at least 256 MiB.
int64_t DefaultArenaBytes(int64_t available_bytes);
// MemAvailable of /proc/meminfo; 0 when it cannot be read.
int64_t AvailableMemoryBytes();

UpPaths PlanPaths(const UpOptions& options, const RunDir& run,
                  const std::filesystem::path& this_program);
// kvstore, then worker, then gateway; each waits for the one before.
std::vector<ChildSpec> PlanChildren(const UpOptions& options, const UpPaths& paths,
                                    int64_t arena_bytes);

}  // namespace tailor
