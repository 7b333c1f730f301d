#include "services/worker/load_worker.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <fstream>
#include <string>
#include <thread>

#include "common/log.h"
#include "common/model_file/model_file.h"
#include "common/status.h"
#include "kvstore/client/local_kv_client.h"
#include "kvstore/client/shm_kv_client.h"
#include "services/kv_control/grpc_kv_control.h"
#include "services/worker/policy_source.h"
#include "worker/ops/backend.h"
#include "worker/ops/cuda_loader.h"

namespace tailor {
namespace {

// A store that was started beside us may need a moment for its memory.
constexpr int64_t kStorePatienceMs = 30000;

LoadOutcome Failure(const absl::Status& status, ExitCode exit_code) {
  LoadOutcome outcome;
  outcome.status = status;
  outcome.exit_code = exit_code;
  return outcome;
}

ExitCode ExitCodeOf(const absl::Status& status, ExitCode otherwise) {
  return absl::IsResourceExhausted(status) ? kExitNoMemory : otherwise;
}

// What Engine::Create reports: the store's absence, memory, or a model it cannot run.
ExitCode EngineExitCode(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
      return kExitLostStore;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kDataLoss:
      return kExitBadModel;
    default:
      return ExitCodeOf(status, kExitRuntime);
  }
}

// Anonymous memory of this process, which the loaded weights become part of.
int64_t AnonymousBytes() {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("RssAnon:", 0) == 0) return std::strtoll(line.c_str() + 8, nullptr, 10) * 1024;
  }
  return 0;
}

// Shows how much of the weights is in memory while they are loaded.
class WeightProgress {
 public:
  WeightProgress(WorkerState& state, int64_t weight_bytes)
      : thread_([this, &state, weight_bytes] {
          const int64_t before_bytes = AnonymousBytes();
          while (!done_) {
            const int64_t loaded_bytes = AnonymousBytes() - before_bytes;
            state.SetLoading("loading weights", std::clamp<int64_t>(loaded_bytes, 0, weight_bytes),
                             weight_bytes);
            std::this_thread::sleep_for(std::chrono::milliseconds(50));
          }
        }) {}
  ~WeightProgress() {
    done_ = true;
    thread_.join();
  }
  WeightProgress(const WeightProgress&) = delete;
  WeightProgress& operator=(const WeightProgress&) = delete;

 private:
  std::atomic<bool> done_ = false;
  std::thread thread_;
};

absl::StatusOr<std::unique_ptr<KvClient>> ConnectStore(const WorkerOptions& options) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(kStorePatienceMs);
  ShmKvClientOptions shm;
  shm.socket_path = options.kvstore_socket;
  while (true) {
    absl::StatusOr<std::unique_ptr<KvClient>> store =
        ShmKvClient::Connect(shm, MakeGrpcKvControl({.address = options.kvstore}));
    if (!absl::IsUnavailable(store.status()) || std::chrono::steady_clock::now() > end) {
      return store;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
  }
}

absl::StatusOr<std::unique_ptr<KvClient>> OpenStore(const WorkerOptions& options,
                                                    WorkerState& state) {
  if (options.local_store_bytes > 0) {
    state.SetLoading("taking memory for the store", 0, 0);
    return MakeLocalStore(options.local_store_bytes);
  }
  state.SetLoading("connecting to the store", 0, 0);
  return ConnectStore(options);
}

absl::StatusOr<ChosenPolicy> LoadPolicy(const WorkerOptions& options, const ModelFile& model) {
  const PolicyRequest request = {.model = options.model,
                                 .policy = options.policy,
                                 .policy_dir = options.policy_dir,
                                 .selector = options.selector,
                                 .query = options.query};
  return ChoosePolicy(request, model.name(), model.fingerprint(), model.hyperparameters());
}

absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(const WorkerOptions& options) {
  if (options.backend != BackendChoice::kCpu) {
    auto cuda = MakeCudaBackend({.device = options.device,
                                 .memory_bytes = options.device_memory_bytes,
                                 .host_threads = options.threads,
                                 .module = options.cuda_module});
    // Too little memory is no reason to be a hundred times slower unasked: only absence is.
    if (options.backend == BackendChoice::kCuda || !absl::IsUnavailable(cuda.status())) return cuda;
    spdlog::info("backend cpu: {}", std::string(cuda.status().message()));
  }
  return MakeCpuBackend({.threads = options.threads});
}

ExitCode BackendExitCode(const absl::Status& status) {
  return absl::IsUnavailable(status) ? kExitNoDevice : ExitCodeOf(status, kExitRuntime);
}

}  // namespace

LoadOutcome LoadWorker(const WorkerOptions& options, WorkerState& state) {
  state.SetLoading("reading the model file", 0, 0);
  auto model = ModelFile::Open(options.model);
  if (!model.ok()) return Failure(model.status(), kExitBadModel);
  const auto policy = LoadPolicy(options, **model);
  if (!policy.ok()) return Failure(policy.status(), kExitBadModel);
  spdlog::info("model {} ({}), policy {}: {}", (*model)->name(),
               (*model)->fingerprint().ToHex().substr(0, 12), policy->source,
               policy->policy.Summary());
  auto backend = MakeBackend(options);
  if (!backend.ok()) return Failure(backend.status(), BackendExitCode(backend.status()));
  spdlog::info("backend {}", (*backend)->name());
  auto store = OpenStore(options, state);
  if (!store.ok()) return Failure(store.status(), ExitCodeOf(store.status(), kExitLostStore));
  LoadOutcome outcome;
  if (options.local_store_bytes == 0) outcome.remote_store = store->get();
  const WeightProgress progress(state, (*model)->weight_bytes());
  auto engine = Engine::Create(options.engine, *std::move(model), policy->policy,
                               *std::move(backend), *std::move(store));
  if (!engine.ok()) return Failure(engine.status(), EngineExitCode(engine.status()));
  outcome.engine = *std::move(engine);
  return outcome;
}

}  // namespace tailor
