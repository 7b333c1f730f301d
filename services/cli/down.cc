// `tailor down`: stops what `tailor up` started.
#include <signal.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <thread>

#include "common/status.h"
#include "services/cli/command.h"
#include "services/cli/failure.h"
#include "services/cli/process/run_dir.h"

namespace tailor {
namespace {

constexpr char kFooter[] = R"(
Examples:
  tailor down                       stop what runs in the default run directory
  tailor down --run-dir /tmp/two    stop another one
Conversations stay: they are there again after the next `tailor up`.)";

// Whether the lock was released in time.
bool WaitUntilFree(const RunDir& run, double timeout_s) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(timeout_s);
  while (run.IsLocked()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return true;
}

int RunDown(const RunDir& run, double timeout_s) {
  if (!run.IsLocked()) {
    std::printf("nothing is running in %s\n", run.path().c_str());
    return kExitOk;
  }
  const absl::StatusOr<RunState> state = run.ReadState();
  if (!state.ok() || state->supervisor_pid <= 1) {
    return Fail(kExitRuntime,
                absl::StrCat("something holds ", (run.path() / "lock").string(),
                             ", but its pid is not known"),
                "it may just be starting: try again in a moment");
  }
  if (kill(state->supervisor_pid, SIGTERM) != 0) {
    return Fail(kExitRuntime, absl::StrCat("cannot stop pid ", state->supervisor_pid),
                "was it started by another user?");
  }
  if (!WaitUntilFree(run, timeout_s)) {
    return Fail(
        kExitRuntime,
        absl::StrCat("pid ", state->supervisor_pid, " has not stopped after ", timeout_s, " s"),
        "`tailor down` once more makes it kill its processes at once");
  }
  std::printf("stopped\n");
  return kExitOk;
}

}  // namespace

void AddDownCommand(CLI::App& app, const GlobalOptions& globals, RunFn* run) {
  CLI::App* command = app.add_subcommand("down", "Stop what `tailor up` started");
  command->footer(kFooter);
  const auto timeout_s = std::make_shared<double>(60);
  command->add_option("--timeout", *timeout_s, "Seconds to wait for the end")
      ->check(CLI::Range(0.1, 86400.0))
      ->capture_default_str()
      ->envname("TAILOR_DOWN_TIMEOUT");
  command->callback([run, timeout_s, &globals] {
    *run = [timeout_s, &globals] { return RunDown(ViewRunDir(globals), *timeout_s); };
  });
}

}  // namespace tailor
