#include "services/cli/process/daemonize.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>

#include "services/exit_code.h"

namespace tailor {
namespace {

// Only a signal handler's way to the pid: the parent does nothing else.
std::atomic<pid_t> daemon_pid{0};

void ForwardStop(int) { kill(daemon_pid.load(), SIGTERM); }

[[noreturn]] void WaitForReport(pid_t pid, const UniqueFd& pipe) {
  daemon_pid = pid;
  struct sigaction action {};
  action.sa_handler = ForwardStop;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  unsigned char code = kExitRuntime;
  ssize_t bytes = 0;
  while ((bytes = read(pipe.get(), &code, 1)) < 0 && errno == EINTR) {
  }
  if (bytes == 1) _exit(code);
  int status = 0;  // it ended without a word
  waitpid(pid, &status, 0);
  _exit(WIFEXITED(status) && WEXITSTATUS(status) != 0 ? WEXITSTATUS(status)
                                                      : static_cast<int>(kExitRuntime));
}

}  // namespace

DetachedStart DetachedStart::Fork() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    std::perror("tailor: cannot make a pipe");
    _exit(kExitRuntime);
  }
  UniqueFd read_end(ends[0]), write_end(ends[1]);
  std::fflush(nullptr);
  const pid_t pid = fork();
  if (pid < 0) {
    std::perror("tailor: cannot fork");
    _exit(kExitRuntime);
  }
  if (pid > 0) {
    write_end.Reset();
    WaitForReport(pid, read_end);
  }
  setsid();
  return DetachedStart(std::move(write_end));
}

void DetachedStart::Report(int exit_code, const std::string& log_path) {
  std::fflush(nullptr);
  if (!pipe_) return;  // the parent was told, and has gone
  if (exit_code == 0) {
    const UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
    const UniqueFd log(open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
    dup2(null.get(), STDIN_FILENO);
    dup2(log ? log.get() : null.get(), STDOUT_FILENO);
    dup2(log ? log.get() : null.get(), STDERR_FILENO);
  }
  const auto code = static_cast<unsigned char>(exit_code);
  if (write(pipe_.get(), &code, 1) != 1) std::perror("tailor: nobody waits for the start");
  pipe_.Reset();
}

}  // namespace tailor
