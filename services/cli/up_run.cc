#include "services/cli/up_run.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <vector>

#include "common/status.h"
#include "services/cli/failure.h"
#include "services/cli/process/daemonize.h"
#include "services/cli/terminal.h"
#include "services/local_address.h"

namespace tailor {
namespace {

using Clock = std::chrono::steady_clock;

// Before anything is started: errors that are better told at once than found in a log.
int CheckModel(const UpOptions& options) {
  std::error_code error;
  const bool exists = std::filesystem::exists(options.model, error);
  if (exists) return kExitOk;
  return Fail(kExitBadModel, absl::StrCat("there is no model at ", options.model.string()),
              "give --model a .gguf file or a Hugging Face directory; deploy/quickstart.sh fetches "
              "a small one");
}

int CheckPrograms(const UpPaths& paths) {
  for (const char* name : {"tailor-kvstore", "tailor-worker", "tailor-gateway"}) {
    const std::filesystem::path program = paths.bin_dir / name;
    if (access(program.c_str(), X_OK) == 0) continue;
    return Fail(kExitRuntime, absl::StrCat("there is no program ", program.string()),
                "build it (cmake --build), or give its directory with --bin-dir");
  }
  return kExitOk;
}

int CheckMemory(int64_t arena_bytes) {
  const int64_t available_bytes = AvailableMemoryBytes();
  if (available_bytes == 0 || arena_bytes <= available_bytes) return kExitOk;
  return Fail(kExitNoMemory,
              absl::StrCat("--arena-bytes is ", arena_bytes, " (", ShortBytes(arena_bytes),
                           "), available memory is ", available_bytes, ": ",
                           arena_bytes - available_bytes, " bytes short"),
              absl::StrCat("give a smaller one, such as --arena-bytes ",
                           DefaultArenaBytes(available_bytes)));
}

int CheckHost(const UpOptions& options, const UpPaths& paths) {
  if (options.insecure_listen || IsLocalAddress(paths.gateway_address)) return kExitOk;
  return Fail(kExitUsage,
              absl::StrCat("--host ", options.host,
                           " can be reached from other machines, in plain text and without keys"),
              "put a proxy with TLS in front, or say --insecure-listen");
}

int CheckPort(const UpOptions& options) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  const std::string port = absl::StrCat(options.port);
  if (getaddrinfo(options.host.c_str(), port.c_str(), &hints, &found) != 0) {
    return Fail(kExitUsage,
                absl::StrCat("--host ", options.host, " is not an address of this machine"),
                "127.0.0.1 serves this machine only, 0.0.0.0 everyone who can reach it");
  }
  const UniqueFd probe(socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  setsockopt(probe.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  const bool free =
      bind(probe.get(), found->ai_addr, found->ai_addrlen) == 0 || errno != EADDRINUSE;
  freeaddrinfo(found);
  if (free) return kExitOk;
  return Fail(kExitPortBusy,
              absl::StrCat("port ", options.port, " of ", options.host, " is in use"),
              "choose another with --port, or stop what holds it (`tailor status`, `tailor down`)");
}

void PrintLastLines(const std::filesystem::path& log, size_t lines) {
  std::ifstream file(log);
  std::vector<std::string> last;
  for (std::string line; std::getline(file, line);) {
    if (last.size() == lines) last.erase(last.begin());
    last.push_back(line);
  }
  for (const std::string& line : last) {
    std::fprintf(stderr, "  | %s\n", SafeForTerminal(line).c_str());
  }
}

UniqueFd WatchStopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGHUP);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  return UniqueFd(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
}

// Takes the signals off the descriptor; whether there was one.
bool TakeSignal(int signal_fd) {
  signalfd_siginfo info;
  bool any = false;
  while (read(signal_fd, &info, sizeof info) == sizeof info) any = true;
  return any;
}

class Up {
 public:
  Up(const UpOptions& options, const UpPaths& paths, RunDir& run, int64_t arena_bytes,
     const LoadProgressFn& load_progress)
      : options_(options),
        paths_(paths),
        run_(run),
        load_progress_(load_progress),
        terminal_(DetectTerminal()),
        progress_(terminal_),
        signal_fd_(WatchStopSignals()),
        supervisor_(
            {.restart = {}, .stop_timeout_ms = static_cast<int64_t>(options.stop_timeout_s * 1000)},
            PlanChildren(options, paths, arena_bytes),
            [this](const ChildEvent& event) { OnEvent(event); }) {
    state_.supervisor_pid = getpid();
    state_.started_unix_ms = std::chrono::duration_cast<std::chrono::milliseconds>(
                                 std::chrono::system_clock::now().time_since_epoch())
                                 .count();
    state_.model = options.model.string();
    state_.gateway_address = paths.gateway_address;
    state_.worker_address = paths.worker_address;
    state_.kvstore_address = paths.kvstore_address;
  }

  // Until all are ready. Returns an exit code.
  int Start();
  // Until a signal or a failure. Returns an exit code.
  int Supervise();
  void Stop();
  void PrintWelcome(UpMode mode) const;

 private:
  void OnEvent(const ChildEvent& event);
  void ShowProgress();
  int ReportFailure(const absl::Status& status);

  const UpOptions& options_;
  const UpPaths& paths_;
  RunDir& run_;
  const LoadProgressFn& load_progress_;
  const Terminal terminal_;
  ProgressLine progress_;
  const UniqueFd signal_fd_;
  const Clock::time_point started_ = Clock::now();
  RunState state_;
  bool starting_ = true;
  Supervisor supervisor_;
};

void Up::OnEvent(const ChildEvent& event) {
  state_.processes = supervisor_.Status();
  if (const absl::Status written = run_.WriteState(state_); !written.ok()) {
    std::fprintf(stderr, "tailor: %s\n", std::string(written.message()).c_str());
  }
  const bool news = !starting_ || event.state == ChildState::kBackoff;
  if (!news) return;
  progress_.Clear();
  std::fprintf(stderr, "tailor: %s\n", event.text.c_str());
}

void Up::ShowProgress() {
  for (const ChildStatus& child : supervisor_.Status()) {
    if (child.state == ChildState::kReady) continue;
    std::optional<LoadProgress> load;
    if (child.name == "worker" && child.pid > 0) load = load_progress_(paths_.worker_address);
    if (load) {
      progress_.Show(absl::StrCat("worker: ", load->activity), load->done, load->total);
    } else {
      progress_.Show(absl::StrCat(child.name, ": ", ToString(child.state)), 0, 0);
    }
    return;
  }
}

int Up::ReportFailure(const absl::Status& status) {
  progress_.Clear();
  for (const ChildStatus& child : supervisor_.Status()) {
    if (child.state == ChildState::kFailed) PrintLastLines(child.log_path, 5);
  }
  return Fail(static_cast<ExitCode>(supervisor_.exit_code()), std::string(status.message()),
              "the lines above are the end of its log; mend the cause and run `tailor up` again");
}

int Up::Start() {
  while (!supervisor_.AllReady()) {
    if (const absl::Status status = supervisor_.Step(100, signal_fd_.get()); !status.ok()) {
      return ReportFailure(status);
    }
    if (TakeSignal(signal_fd_.get())) return kExitInterrupted;
    ShowProgress();
  }
  progress_.Clear();
  starting_ = false;
  return kExitOk;
}

int Up::Supervise() {
  while (true) {
    if (const absl::Status status = supervisor_.Step(60000, signal_fd_.get()); !status.ok()) {
      return ReportFailure(status);
    }
    if (TakeSignal(signal_fd_.get())) return kExitOk;
  }
}

void Up::Stop() {
  progress_.Clear();
  starting_ = false;
  supervisor_.StopAll(signal_fd_.get());
  run_.RemoveState();
}

void Up::PrintWelcome(UpMode mode) const {
  const double seconds = std::chrono::duration<double>(Clock::now() - started_).count();
  const std::string run_dir =
      options_.run_dir.empty() ? "" : absl::StrCat(" --run-dir ", run_.path().string());
  std::printf("TailorServe is ready after %.1f s: %s on %s\n", seconds,
              options_.model.filename().c_str(), paths_.gateway_address.c_str());
  std::printf("  tailor chat%s\n", run_dir.c_str());
  std::printf("  tailor chat%s --document FILE --ask \"...\"\n", run_dir.c_str());
  std::printf("  tailor status%s\n", run_dir.c_str());
  if (mode == UpMode::kDetached) {
    std::printf("`tailor down%s` stops it; logs are in %s\n", run_dir.c_str(),
                paths_.log_dir.c_str());
  } else {
    std::printf("Ctrl-C stops it; logs are in %s\n", paths_.log_dir.c_str());
  }
  std::fflush(stdout);
}

int CheckAll(const UpOptions& options, const UpPaths& paths, int64_t arena_bytes) {
  if (const int code = CheckModel(options); code != kExitOk) return code;
  if (const int code = CheckPrograms(paths); code != kExitOk) return code;
  if (const int code = CheckMemory(arena_bytes); code != kExitOk) return code;
  if (const int code = CheckHost(options, paths); code != kExitOk) return code;
  return CheckPort(options);
}

int StartAndSupervise(const UpOptions& options, UpMode mode, const LoadProgressFn& load_progress,
                      DetachedStart* detached) {
  absl::StatusOr<RunDir> run =
      RunDir::Open(options.run_dir.empty() ? RunDir::DefaultPath() : options.run_dir);
  if (!run.ok()) return Fail(kExitUsage, std::string(run.status().message()), "");
  if (const absl::Status locked = run->Lock(); !locked.ok()) {
    return Fail(kExitRuntime, std::string(locked.message()), "");
  }
  std::error_code error;
  const UpPaths paths =
      PlanPaths(options, *run, std::filesystem::read_symlink("/proc/self/exe", error));
  const int64_t arena_bytes =
      options.arena_bytes > 0 ? options.arena_bytes : DefaultArenaBytes(AvailableMemoryBytes());
  if (const int code = CheckAll(options, paths, arena_bytes); code != kExitOk) return code;
  for (const std::filesystem::path& directory : {paths.log_dir, paths.data_dir}) {
    if (!std::filesystem::create_directories(directory, error) && error) {
      return Fail(kExitRuntime,
                  absl::StrCat("cannot create ", directory.string(), ": ", error.message()),
                  "give another with --log-dir or --data-dir");
    }
  }
  Up up(options, paths, *run, arena_bytes, load_progress);
  int code = up.Start();
  if (code == kExitOk) {
    up.PrintWelcome(mode);
    if (detached != nullptr) detached->Report(kExitOk, (paths.log_dir / "up.log").string());
    code = up.Supervise();
  }
  up.Stop();
  return code;
}

}  // namespace

int RunUp(const UpOptions& options, UpMode mode, const LoadProgressFn& load_progress) {
  if (mode == UpMode::kForeground) return StartAndSupervise(options, mode, load_progress, nullptr);
  DetachedStart detached = DetachedStart::Fork();
  const int code = StartAndSupervise(options, mode, load_progress, &detached);
  detached.Report(code == kExitOk ? static_cast<int>(kExitRuntime) : code, "");
  return code;
}

}  // namespace tailor
