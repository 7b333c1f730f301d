// The runtime directory of one `tailor up`: its lock, its state file, its sockets.
//
//   lock      held (flock) by the supervisor for as long as it lives
//   run.json  what runs: read by `tailor status`, `tailor down` and `tailor chat`
//   *.sock    the processes' unix sockets
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/unique_handle.h"
#include "services/cli/process/supervisor.h"

namespace tailor {

// Everything `tailor up` knows about itself.
struct RunState {
  static constexpr int kVersion = 1;
  pid_t supervisor_pid = -1;
  int64_t started_unix_ms = 0;
  std::string model;
  std::string gateway_address;  // gRPC, "127.0.0.1:8001"
  std::string worker_address;   // gRPC, "unix:/run/..."
  std::string kvstore_address;
  std::vector<ChildStatus> processes;

  std::string ToJson() const;
  // Errors: InvalidArgument names what is missing or wrong.
  static absl::StatusOr<RunState> FromJson(std::string_view json);
};

class RunDir {
 public:
  // TAILOR_RUN_DIR is the flag's business; this is the default: $XDG_RUNTIME_DIR/tailor, else
  // ~/.tailor/run.
  static std::filesystem::path DefaultPath();

  // Creates the directory (mode 0700) if need be. Errors: PermissionDenied (also when it belongs to
  // someone else), InvalidArgument (too long for unix sockets).
  static absl::StatusOr<RunDir> Open(const std::filesystem::path& path);

  // For looking only: creates and checks nothing.
  static RunDir View(const std::filesystem::path& path) { return RunDir(path); }

  // Errors: AlreadyExists "tailor is already running in DIR (pid P)". Kept until destruction;
  // survives fork. Forgets the state of a holder that died: its pids mean nothing any more.
  absl::Status Lock();
  // Whether some process holds the lock now.
  bool IsLocked() const;

  // Replaced atomically: a reader sees the old or the new state.
  absl::Status WriteState(const RunState& state) const;
  // Errors: NotFound when nothing has run here.
  absl::StatusOr<RunState> ReadState() const;
  void RemoveState() const;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path Socket(const std::string& name) const { return path_ / (name + ".sock"); }

 private:
  explicit RunDir(std::filesystem::path path) : path_(std::move(path)) {}
  std::filesystem::path path_;
  UniqueFd lock_;
};

}  // namespace tailor
