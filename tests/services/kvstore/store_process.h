// A real tailor-kvstore, started by a test and ended with it.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "common/shm/futex.h"
#include "common/status.h"
#include "common/unique_handle.h"

namespace tailor {

inline bool Eventually(const std::function<bool()>& condition) {
  const int64_t deadline_ns = MonotonicNowNs() + int64_t{20'000'000'000};
  while (!condition()) {
    if (MonotonicNowNs() > deadline_ns) return false;
    ::usleep(2000);
  }
  return true;
}

// A folder of its own for a test's sockets: short, since a socket's path may have 107 bytes only.
class SocketFolder {
 public:
  SocketFolder() {
    char path[] = "/tmp/tskvXXXXXX";
    TS_CHECK(::mkdtemp(path) != nullptr);
    path_ = path;
  }
  ~SocketFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string data() const { return path_ + "/data"; }
  std::string control() const { return "unix:" + path_ + "/control"; }

 private:
  std::string path_;
};

class StoreProcess {
 public:
  explicit StoreProcess(std::vector<std::string> arguments) {
    int ready[2];
    TS_CHECK(::pipe2(ready, 0) == 0);
    arguments.insert(arguments.begin(), TAILOR_KVSTORE_BINARY);
    arguments.insert(arguments.end(), {"--ready-fd", std::to_string(ready[1])});
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::close(ready[0]);
      ::execv(argv[0], argv.data());
      ::_exit(127);
    }
    ::close(ready[1]);
    ready_ = UniqueFd(ready[0]);
  }
  ~StoreProcess() {
    if (pid_ <= 0) return;
    Signal(SIGKILL);
    Wait();
  }
  StoreProcess(const StoreProcess&) = delete;
  StoreProcess& operator=(const StoreProcess&) = delete;

  // Whether it said that it serves, within 30 s.
  bool IsReady() {
    pollfd wait{.fd = ready_.get(), .events = POLLIN, .revents = 0};
    char text[6] = {};
    return ::poll(&wait, 1, 30'000) > 0 && ::read(ready_.get(), text, 6) == 6;
  }
  void Signal(int signal_number) const { ::kill(pid_, signal_number); }
  // Returns once every thread of it stands still.
  void Stop() const {
    Signal(SIGSTOP);
    ::waitpid(pid_, nullptr, WUNTRACED);
  }
  // The exit code, or 128 + the signal.
  int Wait() {
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
  UniqueFd ready_;
};

}  // namespace tailor
