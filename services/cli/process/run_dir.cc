#include "services/cli/process/run_dir.h"

#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "common/status.h"

namespace tailor {
namespace {

using nlohmann::json;

// The longest name we put into the directory, with the slash.
constexpr size_t kSocketNameBytes = sizeof "/kvstore-data.sock";

json ToJsonObject(const ChildStatus& process) {
  return {{"name", process.name},
          {"state", ToString(process.state)},
          {"pid", process.pid},
          {"starts", process.starts},
          {"started_unix_ms", process.started_unix_ms},
          {"log", process.log_path.string()}};
}

absl::StatusOr<ChildState> ParseState(const std::string& text) {
  for (const ChildState state : {ChildState::kWaiting, ChildState::kStarting, ChildState::kReady,
                                 ChildState::kBackoff, ChildState::kStopped, ChildState::kFailed}) {
    if (text == ToString(state)) return state;
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown process state \"", text, "\""));
}

absl::StatusOr<ChildStatus> ParseProcess(const json& object) {
  ChildStatus process;
  process.name = object.at("name").get<std::string>();
  TS_ASSIGN_OR_RETURN(process.state, ParseState(object.at("state").get<std::string>()));
  process.pid = object.at("pid").get<pid_t>();
  process.starts = object.at("starts").get<int64_t>();
  process.started_unix_ms = object.at("started_unix_ms").get<int64_t>();
  process.log_path = object.at("log").get<std::string>();
  return process;
}

absl::StatusOr<RunState> ParseRunState(const json& object) {
  if (const int version = object.at("version").get<int>(); version != RunState::kVersion) {
    return absl::InvalidArgumentError(
        absl::StrCat("version is ", version, ", this program reads ", RunState::kVersion));
  }
  RunState state;
  state.supervisor_pid = object.at("supervisor_pid").get<pid_t>();
  state.started_unix_ms = object.at("started_unix_ms").get<int64_t>();
  state.model = object.at("model").get<std::string>();
  state.gateway_address = object.at("gateway_address").get<std::string>();
  state.worker_address = object.at("worker_address").get<std::string>();
  state.kvstore_address = object.at("kvstore_address").get<std::string>();
  for (const json& process : object.at("processes")) {
    TS_ASSIGN_OR_RETURN(ChildStatus parsed, ParseProcess(process));
    state.processes.push_back(std::move(parsed));
  }
  return state;
}

// A few tries: IsLocked of another process holds a shared lock for a moment.
bool TryLock(int fd) {
  for (int i = 0; i < 10; ++i) {
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) return true;
    usleep(20000);
  }
  return false;
}

}  // namespace

std::string RunState::ToJson() const {
  json list = json::array();
  for (const ChildStatus& process : processes) list.push_back(ToJsonObject(process));
  return json{{"version", kVersion},
              {"supervisor_pid", supervisor_pid},
              {"started_unix_ms", started_unix_ms},
              {"model", model},
              {"gateway_address", gateway_address},
              {"worker_address", worker_address},
              {"kvstore_address", kvstore_address},
              {"processes", list}}
      .dump(2, ' ', false, json::error_handler_t::replace);
}

absl::StatusOr<RunState> RunState::FromJson(std::string_view text) {
  try {
    return ParseRunState(json::parse(text));
  } catch (const json::exception& error) {
    return absl::InvalidArgumentError(error.what());
  }
}

std::filesystem::path RunDir::DefaultPath() {
  if (const char* runtime = std::getenv("XDG_RUNTIME_DIR"); runtime != nullptr && *runtime != 0) {
    return std::filesystem::path(runtime) / "tailor";
  }
  const char* home = std::getenv("HOME");
  return std::filesystem::path(home != nullptr ? home : "/tmp") / ".tailor" / "run";
}

absl::StatusOr<RunDir> RunDir::Open(const std::filesystem::path& path) {
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(path, error).lexically_normal();
  const std::string name = absolute.string();
  const size_t limit = sizeof(sockaddr_un::sun_path) - kSocketNameBytes;
  if (name.size() > limit) {
    return absl::InvalidArgumentError(absl::StrCat("run directory ", name, " has ", name.size(),
                                                   " characters, unix sockets allow ", limit,
                                                   "; give a shorter --run-dir"));
  }
  std::filesystem::create_directories(absolute.parent_path(), error);
  if (mkdir(name.c_str(), 0700) != 0 && errno != EEXIST) {
    return absl::PermissionDeniedError(absl::StrCat("cannot create the run directory ", name, ": ",
                                                    strerror(errno), "; give another --run-dir"));
  }
  struct stat info {};
  if (stat(name.c_str(), &info) != 0 || !S_ISDIR(info.st_mode) || info.st_uid != geteuid()) {
    return absl::PermissionDeniedError(absl::StrCat(
        "the run directory ", name, " is not a directory of yours; give another --run-dir"));
  }
  if ((info.st_mode & 0077) != 0) chmod(name.c_str(), 0700);
  return RunDir(absolute);
}

absl::Status RunDir::Lock() {
  UniqueFd fd(open((path_ / "lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd) {
    return absl::PermissionDeniedError(
        absl::StrCat("cannot open ", (path_ / "lock").string(), ": ", strerror(errno)));
  }
  if (!TryLock(fd.get())) {
    const absl::StatusOr<RunState> state = ReadState();
    return absl::AlreadyExistsError(
        absl::StrCat("tailor is already running in ", path_.string(),
                     state.ok() ? absl::StrCat(" (pid ", state->supervisor_pid, ")") : "",
                     "; `tailor down` stops it, --run-dir starts another"));
  }
  lock_ = std::move(fd);
  RemoveState();
  return absl::OkStatus();
}

bool RunDir::IsLocked() const {
  const UniqueFd fd(open((path_ / "lock").c_str(), O_RDWR | O_CLOEXEC));
  return fd && flock(fd.get(), LOCK_SH | LOCK_NB) != 0;
}

absl::Status RunDir::WriteState(const RunState& state) const {
  const std::filesystem::path temporary = path_ / "run.json.new";
  std::ofstream(temporary) << state.ToJson() << '\n';
  if (rename(temporary.c_str(), (path_ / "run.json").c_str()) != 0) {
    return absl::InternalError(
        absl::StrCat("cannot write ", (path_ / "run.json").string(), ": ", strerror(errno)));
  }
  return absl::OkStatus();
}

absl::StatusOr<RunState> RunDir::ReadState() const {
  std::ifstream file(path_ / "run.json");
  if (!file) return absl::NotFoundError(absl::StrCat("no run.json in ", path_.string()));
  std::stringstream text;
  text << file.rdbuf();
  absl::StatusOr<RunState> state = RunState::FromJson(text.str());
  if (!state.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat((path_ / "run.json").string(), ": ", std::string(state.status().message())));
  }
  return state;
}

void RunDir::RemoveState() const {
  std::error_code error;
  std::filesystem::remove(path_ / "run.json", error);
}

}  // namespace tailor
