// One child process: spawned with a clean signal state and only the descriptors it is meant to
// have, watched by a pidfd, so that a recycled pid is never signalled or waited for by mistake.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/unique_handle.h"

namespace tailor {

// The descriptor on which a child says "ready\n" once it serves. Its number is a convention of ours
// (passed to each child as --ready-fd 3).
inline constexpr int kReadyFd = 3;

struct ChildSpec {
  std::string name;                // "worker": in messages and in the log's file name
  std::vector<std::string> argv;   // argv[0] is the program's path
  std::filesystem::path log_path;  // stdout and stderr are appended here
  std::vector<std::string> after;  // names of children that must be ready before this one starts
};

// How a process ended.
struct ChildExit {
  int code = 0;                  // exit code, when signal is 0
  int signal = 0;                // the signal that killed it
  std::string ToString() const;  // "exit code 3" or "signal 9 (Killed)"
};

// Move-only. A process still running when its ChildProcess is destroyed is killed and reaped.
class ChildProcess {
 public:
  // Errors: NotFound (no such program), PermissionDenied, Internal; each names program and cause.
  static absl::StatusOr<ChildProcess> Spawn(const ChildSpec& spec);

  ChildProcess(ChildProcess&&) = default;
  ChildProcess& operator=(ChildProcess&&) = delete;
  ~ChildProcess();

  pid_t pid() const { return pid_; }
  int pidfd() const { return pidfd_.get(); }          // readable once the process has ended
  int ready_fd() const { return ready_pipe_.get(); }  // read end, non-blocking; -1 once closed
  void CloseReadyFd() { ready_pipe_.Reset(); }

  // To the process itself. Not an error when it has already ended.
  void Signal(int signal_number) const;
  // SIGKILL to the child's whole process group: also what it has spawned.
  void KillGroup() const;
  // Call after pidfd became readable, once.
  ChildExit Reap();

 private:
  ChildProcess(pid_t pid, UniqueFd pidfd, UniqueFd ready_pipe)
      : pid_(pid), pidfd_(std::move(pidfd)), ready_pipe_(std::move(ready_pipe)) {}
  pid_t pid_ = -1;
  UniqueFd pidfd_;  // empty: moved from or reaped
  UniqueFd ready_pipe_;
};

}  // namespace tailor
