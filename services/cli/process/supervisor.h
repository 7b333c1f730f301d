// START HERE for process supervision. Starts children in dependency order, waits until each says it
// is ready, starts one that dies again (restart_policy.h), and stops all in reverse order.
//
//   waiting -> starting -> ready -> (ended) -> backoff -> starting ...
//
// Single-threaded: the owner calls Step in a loop. The thread that calls it must live as long as
// the children: a child that asked to die with its parent dies with that thread.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "services/cli/process/child_process.h"
#include "services/cli/process/restart_policy.h"

namespace tailor {

enum class ChildState { kWaiting, kStarting, kReady, kBackoff, kStopped, kFailed };
const char* ToString(ChildState state);

struct ChildStatus {
  std::string name;
  ChildState state = ChildState::kWaiting;
  pid_t pid = -1;      // -1: not running
  int64_t starts = 0;  // processes started under this name so far
  int64_t started_unix_ms = 0;
  std::filesystem::path log_path;
};

// What happened, in words for the user: "worker ended (signal 9 (Killed)); starting it again in 0.3
// s".
struct ChildEvent {
  std::string child;
  ChildState state;
  std::string text;
};

struct SupervisorOptions {
  RestartPolicy restart;
  int64_t stop_timeout_ms = 10000;  // from SIGTERM to SIGKILL, for each child
};

class Supervisor {
 public:
  using EventFn = std::function<void(const ChildEvent&)>;
  // `children` in start order; they stop in the reverse one.
  Supervisor(SupervisorOptions options, std::vector<ChildSpec> children, EventFn on_event);
  ~Supervisor();  // kills what still runs
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  // Waits at most timeout_ms for an event or until wake_fd (-1: none) is readable, and handles what
  // is due. Errors: Aborted, once a child has been given up; exit_code() then says which kind. The
  // caller stops the rest.
  absl::Status Step(int64_t timeout_ms, int wake_fd);
  bool AllReady() const;
  int exit_code() const { return exit_code_; }
  // SIGTERM, then SIGKILL after the stop timeout, or at once when hurry_fd (-1: none) gets
  // readable.
  void StopAll(int hurry_fd);
  std::vector<ChildStatus> Status() const;

 private:
  struct Child;
  void StartDue(int64_t now_ms);
  absl::Status StartChild(Child& child, int64_t now_ms);
  bool DependenciesReady(const Child& child) const;
  int64_t MsToNextDeadline(int64_t now_ms, int64_t limit_ms) const;
  void ReadReadiness(Child& child, int64_t now_ms);
  void HandleEnd(Child& child, const ChildExit& exit, int64_t now_ms);
  void CheckStartTimeout(Child& child, int64_t now_ms);
  void StopChild(Child& child, int hurry_fd);
  void Report(const Child& child, const std::string& text);

  const SupervisorOptions options_;
  std::vector<Child> children_;
  EventFn on_event_;
  absl::Status failure_;
  int exit_code_ = 0;
};

}  // namespace tailor
