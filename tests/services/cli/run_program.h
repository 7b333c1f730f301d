// Runs a program to its end, or to a moment of the test's choosing, and keeps what it printed.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <string>
#include <vector>

namespace tailor {

struct ProgramResult {
  int exit_code = -1;  // 128 + signal when one ended it
  std::string out, err;
};

class RunningProgram {
 public:
  // `environment`: "NAME=value", added to a copy of ours without any TAILOR_*.
  RunningProgram(std::vector<std::string> argv, const std::vector<std::string>& environment,
                 const std::string& input = "") {
    int in[2], out[2], err[2];
    if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0 || pipe2(err, O_CLOEXEC) != 0) {
      abort();
    }
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], 0);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    posix_spawn_file_actions_adddup2(&actions, err[1], 2);
    std::vector<std::string> variables = environment;
    for (char** entry = environ; *entry != nullptr; ++entry) {
      if (std::string(*entry).rfind("TAILOR_", 0) != 0) variables.push_back(*entry);
    }
    const auto pointers = [](std::vector<std::string>& strings) {
      std::vector<char*> result;
      for (std::string& text : strings) result.push_back(text.data());
      result.push_back(nullptr);
      return result;
    };
    if (posix_spawn(&pid_, argv[0].c_str(), &actions, nullptr, pointers(argv).data(),
                    pointers(variables).data()) != 0) {
      abort();
    }
    posix_spawn_file_actions_destroy(&actions);
    for (const int fd : {in[0], out[1], err[1]}) close(fd);
    if (write(in[1], input.data(), input.size()) < 0) abort();
    close(in[1]);
    out_fd_ = out[0];
    err_fd_ = err[0];
  }
  ~RunningProgram() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    close(out_fd_);
    close(err_fd_);
  }
  RunningProgram(const RunningProgram&) = delete;

  void Signal(int signal_number) { kill(pid_, signal_number); }
  pid_t pid() const { return pid_; }

  // Reads until `done` holds for what was printed so far; false when the program ended, or after 60
  // s.
  bool ReadUntil(const std::function<bool(const ProgramResult&)>& done) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!done(result_)) {
      if (std::chrono::steady_clock::now() > end || !ReadSome()) return done(result_);
    }
    return true;
  }
  ProgramResult Wait() {
    ReadUntil([](const ProgramResult&) { return false; });
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    result_.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return result_;
  }

 private:
  // False when both streams have ended.
  bool ReadSome() {
    pollfd fds[2] = {{out_open_ ? out_fd_ : -1, POLLIN, 0}, {err_open_ ? err_fd_ : -1, POLLIN, 0}};
    if (!out_open_ && !err_open_) return false;
    poll(fds, 2, 1000);
    if (fds[0].revents != 0) out_open_ = Append(out_fd_, &result_.out);
    if (fds[1].revents != 0) err_open_ = Append(err_fd_, &result_.err);
    return true;
  }
  static bool Append(int fd, std::string* text) {
    char buffer[4096];
    const ssize_t bytes = read(fd, buffer, sizeof buffer);
    if (bytes > 0) text->append(buffer, static_cast<size_t>(bytes));
    return bytes > 0;
  }

  pid_t pid_ = -1;
  int out_fd_ = -1, err_fd_ = -1;
  bool out_open_ = true, err_open_ = true;
  ProgramResult result_;
};

}  // namespace tailor
