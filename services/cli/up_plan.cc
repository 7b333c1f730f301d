#include "services/cli/up_plan.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>

#include "common/status.h"

namespace tailor {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

using Arguments = std::vector<std::string>;

void Add(Arguments& argv, const std::string& flag, const std::string& value) {
  if (value.empty()) return;
  argv.push_back(flag);
  argv.push_back(value);
}

void AddNumber(Arguments& argv, const std::string& flag, int64_t value) {
  if (value > 0) Add(argv, flag, absl::StrCat(value));
}

// What every process of ours takes.
void AddProcessFlags(Arguments& argv, const UpOptions& options) {
  Add(argv, "--ready-fd", absl::StrCat(kReadyFd));
  argv.push_back("--die-with-parent");
  Add(argv, "--log-level", options.log_level);
}

ChildSpec Child(const std::string& name, const UpPaths& paths, Arguments after) {
  return {.name = name,
          .argv = {(paths.bin_dir / ("tailor-" + name)).string()},
          .log_path = paths.log_dir / (name + ".log"),
          .after = std::move(after)};
}

ChildSpec PlanStore(const UpOptions& options, const UpPaths& paths, int64_t arena_bytes) {
  ChildSpec store = Child("kvstore", paths, {});
  Add(store.argv, "--listen", paths.kvstore_address);
  Add(store.argv, "--data-socket", paths.kvstore_data_socket.string());
  AddNumber(store.argv, "--arena-bytes", arena_bytes);
  AddProcessFlags(store.argv, options);
  return store;
}

ChildSpec PlanWorker(const UpOptions& options, const UpPaths& paths) {
  ChildSpec worker = Child("worker", paths, {"kvstore"});
  Add(worker.argv, "--model", options.model.string());
  Add(worker.argv, "--policy", options.policy.string());
  Add(worker.argv, "--policy-dir", options.policy_dir.string());
  Add(worker.argv, "--attention-default", options.attention);
  Add(worker.argv, "--selector", options.selector);
  Add(worker.argv, "--query", options.query);
  Add(worker.argv, "--listen", paths.worker_address);
  Add(worker.argv, "--kvstore", paths.kvstore_address);
  Add(worker.argv, "--kvstore-socket", paths.kvstore_data_socket.string());
  Add(worker.argv, "--backend", options.backend);
  Add(worker.argv, "--cuda-module", options.cuda_module.string());
  AddNumber(worker.argv, "--device-memory", options.device_memory_bytes);
  AddNumber(worker.argv, "--threads", options.threads);
  AddNumber(worker.argv, "--worker-memory-bytes", options.worker_memory_bytes);
  AddNumber(worker.argv, "--context-tokens", options.context_tokens);
  AddNumber(worker.argv, "--prefill-chunk-tokens", options.prefill_chunk_tokens);
  AddProcessFlags(worker.argv, options);
  return worker;
}

ChildSpec PlanGateway(const UpOptions& options, const UpPaths& paths) {
  ChildSpec gateway = Child("gateway", paths, {"worker"});
  Add(gateway.argv, "--model", options.model.string());
  Add(gateway.argv, "--worker", paths.worker_address);
  Add(gateway.argv, "--listen", paths.gateway_address);
  if (options.insecure_listen) gateway.argv.push_back("--insecure-listen");
  AddNumber(gateway.argv, "--context-tokens", options.context_tokens);
  Add(gateway.argv, "--database", (paths.data_dir / "sessions.db").string());
  AddProcessFlags(gateway.argv, options);
  return gateway;
}

// Conversations must outlive a log-out, so they do not go into the runtime directory unless that
// was named by the user.
std::filesystem::path HomeDir() {
  const char* home = std::getenv("HOME");
  return std::filesystem::path(home != nullptr ? home : "/tmp") / ".tailor";
}

}  // namespace

int64_t DefaultArenaBytes(int64_t available_bytes) {
  const int64_t quarter = available_bytes / 4 / (2 * kMiB) * (2 * kMiB);  // whole huge pages
  return std::clamp<int64_t>(quarter, 256 * kMiB, 2048 * kMiB);
}

int64_t AvailableMemoryBytes() {
  std::ifstream file("/proc/meminfo");
  std::string key, unit;
  int64_t kib = 0;
  while (file >> key >> kib) {
    std::getline(file, unit);
    if (key == "MemAvailable:") return kib * 1024;
  }
  return 0;
}

UpPaths PlanPaths(const UpOptions& options, const RunDir& run,
                  const std::filesystem::path& this_program) {
  const auto absolute = [](const std::filesystem::path& path) {
    std::error_code error;
    return std::filesystem::absolute(path, error).lexically_normal();
  };
  UpPaths paths;
  paths.bin_dir = options.bin_dir.empty() ? this_program.parent_path() : absolute(options.bin_dir);
  const std::filesystem::path home = options.run_dir.empty() ? HomeDir() : run.path();
  paths.log_dir = options.log_dir.empty() ? home / "logs" : absolute(options.log_dir);
  paths.data_dir = options.data_dir.empty() ? home / "data" : absolute(options.data_dir);
  const bool ipv6 = options.host.find(':') != std::string::npos;
  paths.gateway_address = ipv6 ? absl::StrCat("[", options.host, "]:", options.port)
                               : absl::StrCat(options.host, ":", options.port);
  paths.worker_address = absl::StrCat("unix:", run.Socket("worker").string());
  paths.kvstore_address = absl::StrCat("unix:", run.Socket("kvstore").string());
  paths.kvstore_data_socket = run.Socket("kvstore-data");
  return paths;
}

std::vector<ChildSpec> PlanChildren(const UpOptions& options, const UpPaths& paths,
                                    int64_t arena_bytes) {
  return {PlanStore(options, paths, arena_bytes), PlanWorker(options, paths),
          PlanGateway(options, paths)};
}

}  // namespace tailor
