#include "services/cli/process/child_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "common/status.h"

namespace tailor {
namespace {

// By number: <sys/pidfd.h> of glibc 2.36 declares these without extern "C".
int PidfdOpen(pid_t pid) { return static_cast<int>(syscall(SYS_pidfd_open, pid, 0)); }
void PidfdSendSignal(int pidfd, int signal) {
  syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0);
}

absl::Status SystemError(const std::string& what, int error) {
  const std::string message = absl::StrCat(what, ": ", strerror(error));
  if (error == ENOENT) return absl::NotFoundError(message);
  if (error == EACCES || error == EPERM) return absl::PermissionDeniedError(message);
  return absl::InternalError(message);
}

struct FileActions {
  FileActions() { posix_spawn_file_actions_init(&raw); }
  ~FileActions() { posix_spawn_file_actions_destroy(&raw); }
  FileActions(const FileActions&) = delete;
  posix_spawn_file_actions_t raw;
};

struct SpawnAttributes {
  SpawnAttributes() { posix_spawnattr_init(&raw); }
  ~SpawnAttributes() { posix_spawnattr_destroy(&raw); }
  SpawnAttributes(const SpawnAttributes&) = delete;
  posix_spawnattr_t raw;
};

// An own process group, so that a Ctrl-C in the terminal reaches only us and we stop the children
// in order; all signals unblocked and at their defaults, whatever we did to ours.
void SetAttributes(SpawnAttributes& attributes) {
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes.raw, &none);
  posix_spawnattr_setsigdefault(&attributes.raw, &all);
  posix_spawnattr_setpgroup(&attributes.raw, 0);
  posix_spawnattr_setflags(&attributes.raw,
                           POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
}

// Above the numbers that the child's descriptors are moved to.
absl::StatusOr<UniqueFd> MoveUp(UniqueFd fd) {
  UniqueFd moved(fcntl(fd.get(), F_DUPFD_CLOEXEC, 16));
  if (!moved) return SystemError("cannot duplicate a descriptor", errno);
  return moved;
}

absl::StatusOr<UniqueFd> OpenLog(const std::filesystem::path& path) {
  UniqueFd log(open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (!log) return SystemError(absl::StrCat("cannot open the log ", path.string()), errno);
  return MoveUp(std::move(log));
}

absl::StatusOr<pid_t> SpawnWith(const ChildSpec& spec, int log_fd, int ready_fd) {
  FileActions actions;
  posix_spawn_file_actions_addopen(&actions.raw, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions.raw, log_fd, 1);
  posix_spawn_file_actions_adddup2(&actions.raw, log_fd, 2);
  posix_spawn_file_actions_adddup2(&actions.raw, ready_fd, kReadyFd);
  posix_spawn_file_actions_addclosefrom_np(&actions.raw, kReadyFd + 1);
  SpawnAttributes attributes;
  SetAttributes(attributes);
  std::vector<char*> argv;
  for (const std::string& argument : spec.argv) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  pid_t pid = -1;
  const int error = posix_spawn(&pid, argv[0], &actions.raw, &attributes.raw, argv.data(), environ);
  if (error != 0) return SystemError(absl::StrCat("cannot start ", spec.argv[0]), error);
  return pid;
}

}  // namespace

std::string ChildExit::ToString() const {
  if (signal == 0) return absl::StrCat("exit code ", code);
  return absl::StrCat("signal ", signal, " (", strsignal(signal), ")");
}

absl::StatusOr<ChildProcess> ChildProcess::Spawn(const ChildSpec& spec) {
  TS_CHECK(!spec.argv.empty());
  TS_ASSIGN_OR_RETURN(const UniqueFd log, OpenLog(spec.log_path));
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return SystemError("cannot make a pipe", errno);
  UniqueFd read_end(ends[0]);
  TS_ASSIGN_OR_RETURN(const UniqueFd write_end, MoveUp(UniqueFd(ends[1])));
  fcntl(read_end.get(), F_SETFL, O_NONBLOCK);
  TS_ASSIGN_OR_RETURN(const pid_t pid, SpawnWith(spec, log.get(), write_end.get()));
  UniqueFd pidfd(PidfdOpen(pid));
  if (!pidfd) {
    const int error = errno;
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    return SystemError("cannot watch a process (pidfd_open)", error);
  }
  return ChildProcess(pid, std::move(pidfd), std::move(read_end));
}

ChildProcess::~ChildProcess() {
  if (!pidfd_) return;
  KillGroup();
  Reap();
}

void ChildProcess::Signal(int signal_number) const {
  if (pidfd_) PidfdSendSignal(pidfd_.get(), signal_number);
}

void ChildProcess::KillGroup() const {
  if (pidfd_) kill(-pid_, SIGKILL);  // not reaped yet, so the group's id cannot have been reused
}

ChildExit ChildProcess::Reap() {
  siginfo_t info{};
  while (waitid(P_PIDFD, static_cast<id_t>(pidfd_.get()), &info, WEXITED) != 0 && errno == EINTR) {
  }
  pidfd_.Reset();
  ready_pipe_.Reset();
  ChildExit exit;
  (info.si_code == CLD_EXITED ? exit.code : exit.signal) = info.si_status;
  return exit;
}

}  // namespace tailor
