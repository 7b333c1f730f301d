#include "services/cli/failure.h"

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "services/cli/terminal.h"

namespace tailor {
namespace {

// What to do about a refusal that names its own cause.
const char* NextStep(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kDeadlineExceeded:
      return "`tailor status` shows whether the processes are healthy";
    case absl::StatusCode::kNotFound:
      return "`tailor sessions` lists what exists";
    case absl::StatusCode::kResourceExhausted:
      return "ask for less, wait for other turns, or start with more: `tailor up --help`";
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kAborted:
      return "try again when the running turn is over";
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kPermissionDenied:
      return "check the API key: --api-key";
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return "";
    default:
      return "the logs say more: `tailor status` names them";
  }
}

}  // namespace

int Fail(ExitCode code, const std::string& what, const std::string& next) {
  std::fprintf(stderr, "tailor: %s\n", SafeForTerminal(what).c_str());
  if (!next.empty()) std::fprintf(stderr, "  next: %s\n", next.c_str());
  return code;
}

int FailCall(const absl::Status& status, const std::string& what, const std::string& address) {
  const std::string message(status.message());
  if (status.code() == absl::StatusCode::kUnavailable) {
    return Fail(
        kExitRuntime, absl::StrCat(what, ": no answer from ", address, " (", message, ")"),
        "start the server with `tailor up --model PATH`, or name another one with --server; "
        "`tailor status` shows what runs");
  }
  const ExitCode code =
      status.code() == absl::StatusCode::kResourceExhausted ? kExitNoMemory : kExitRuntime;
  return Fail(code, absl::StrCat(what, ": ", message), NextStep(status.code()));
}

}  // namespace tailor
