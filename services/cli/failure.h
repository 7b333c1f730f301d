// How the command line fails: one line that says what and where, one that says what to do next, and
// an exit code that scripts can tell apart.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "services/exit_code.h"

namespace tailor {

// Prints "tailor: <what>" and, unless empty, "  next: <next>" to stderr. Returns `code`.
int Fail(ExitCode code, const std::string& what, const std::string& next);

// A failed call of the gateway at `address`: explains the usual causes.
int FailCall(const absl::Status& status, const std::string& what, const std::string& address);

}  // namespace tailor
