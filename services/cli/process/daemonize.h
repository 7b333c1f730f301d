// `tailor up --detach`: the caller's process waits until the service is up, then leaves it behind.
#pragma once

#include <string>

#include "common/unique_handle.h"

namespace tailor {

// Call before any thread exists. In the parent it does not return: it passes the messages of the
// daemon's start through (they share the terminal), forwards Ctrl-C as SIGTERM, and exits with the
// code the daemon reports. In the daemon it returns the reporter.
class DetachedStart {
 public:
  static DetachedStart Fork();

  // Ends the parent with `exit_code`. On 0 the daemon's standard streams go to `log_path` from here
  // on. Only the first call counts.
  void Report(int exit_code, const std::string& log_path);

 private:
  explicit DetachedStart(UniqueFd pipe) : pipe_(std::move(pipe)) {}
  UniqueFd pipe_;
};

}  // namespace tailor
