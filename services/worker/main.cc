// tailor-worker: one model. The server starts first, so that GetModelInfo shows how the load goes.
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <optional>
#include <thread>

#include "common/log.h"
#include "common/status.h"
#include "services/exit_code.h"
#include "services/grpc_server.h"
#include "services/process_life.h"
#include "services/worker/decoder_service.h"
#include "services/worker/load_worker.h"
#include "services/worker/store_watch.h"
#include "services/worker/worker_options.h"

namespace tailor {
namespace {

constexpr int kMaxMessageBytes = 64 << 20;  // a history of some millions of token ids
constexpr int64_t kGraceMs = 2000;

class Worker {
 public:
  explicit Worker(const WorkerOptions& options)
      : options_(options), service_({.attention_default = options.attention_default}, &state_) {}

  int Run();

 private:
  void Load();  // on its own thread
  void EndWith(int exit_code);
  int Stop();

  const WorkerOptions& options_;
  WorkerState state_;
  DecoderService service_;
  std::unique_ptr<GrpcServer> server_;
  std::optional<StoreWatch> watch_;
  std::atomic<int> exit_code_ = kExitOk;
  std::atomic<bool> loaded_ = false;
};

// Wakes Run, which waits for a signal, from another thread.
void Worker::EndWith(int exit_code) {
  exit_code_ = exit_code;
  kill(getpid(), SIGTERM);
}

void Worker::Load() {
  LoadOutcome outcome = LoadWorker(options_, state_);
  if (!outcome.status.ok()) {
    state_.SetFailed(outcome.status);
    std::fprintf(stderr, "tailor-worker: %s\n", std::string(outcome.status.message()).c_str());
    loaded_ = true;
    EndWith(outcome.exit_code);
    return;
  }
  if (outcome.remote_store != nullptr) {
    watch_.emplace(StoreWatchOptions{}, outcome.remote_store, [this](const absl::Status& why) {
      spdlog::error("the store is lost: {}", std::string(why.message()));
      EndWith(kExitLostStore);
    });
  }
  state_.SetServing(std::move(outcome.engine));
  server_->SetHealthy(true);
  loaded_ = true;
  spdlog::info("ready on {} after {:.1f} s", server_->address(), state_.progress().seconds);
  AnnounceReady(options_.ready_fd);
}

// Turns end first, so that their callers hear why; then the calls.
int Worker::Stop() {
  server_->SetHealthy(false);
  const int exit_code = exit_code_;
  const bool store_lost = exit_code == kExitLostStore;
  std::shared_ptr<Engine> engine =
      state_.SetStopping(store_lost ? "its store is gone" : "asked to");
  if (!loaded_ || store_lost) {
    // A load cannot be interrupted, and without a store each sequence's detach would wait in vain.
    // Nothing here outlives the process.
    server_->Shutdown(store_lost ? kGraceMs : 0);
    _exit(exit_code);
  }
  watch_.reset();
  engine.reset();
  server_->Shutdown(kGraceMs);
  return exit_code;
}

int Worker::Run() {
  auto server = GrpcServer::Start(
      {.address = options_.listen, .services = {&service_}, .max_message_bytes = kMaxMessageBytes});
  if (!server.ok()) {
    std::fprintf(stderr, "tailor-worker: %s; choose another --listen\n",
                 std::string(server.status().message()).c_str());
    return absl::IsAlreadyExists(server.status()) ? kExitPortBusy : kExitUsage;
  }
  server_ = *std::move(server);
  std::thread loader([this] { Load(); });
  const int signal_number = AwaitStopSignal();
  spdlog::info("signal {}: ending", signal_number);
  const int exit_code = Stop();
  loader.join();
  return exit_code;
}

}  // namespace
}  // namespace tailor

int main(int argc, char** argv) {
  tailor::BlockStopSignals();
  const tailor::ParsedCommandLine command = tailor::ParseWorkerCommandLine(argc, argv);
  if (!command.options.has_value()) return command.exit_code;
  tailor::SetUpLogging("worker", command.options->log_level);
  if (command.options->die_with_parent) tailor::DieWithParent();
  umask(S_IRWXG | S_IRWXO);  // sockets are for this user
  return tailor::Worker(*command.options).Run();
}
