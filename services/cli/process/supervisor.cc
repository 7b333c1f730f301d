#include "services/cli/process/supervisor.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "common/status.h"

namespace tailor {
namespace {

// More than this on the readiness pipe before "ready\n" is not ours; what follows is dropped.
constexpr size_t kReadyLineBytes = 256;

int64_t NowMs() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

int64_t UnixMs() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

std::string Seconds(int64_t ms) {
  char text[32];
  snprintf(text, sizeof text, "%.1f s", static_cast<double>(ms) / 1000);
  return text;
}

bool WaitReadable(int fd, int other_fd, int64_t timeout_ms) {
  pollfd fds[2] = {{fd, POLLIN, 0}, {other_fd, POLLIN, 0}};
  poll(fds, other_fd >= 0 ? 2 : 1, static_cast<int>(timeout_ms));
  return fds[0].revents != 0;
}

}  // namespace

struct Supervisor::Child {
  ChildSpec spec;
  ChildState state = ChildState::kWaiting;
  std::optional<ChildProcess> process;
  std::string ready_text;      // read from the readiness pipe so far
  int64_t state_since_ms = 0;  // when it started, or became ready
  int64_t restart_at_ms = 0;   // in kBackoff
  int64_t started_unix_ms = 0, starts = 0;
  int failures_in_a_row = 0;
};

const char* ToString(ChildState state) {
  switch (state) {
    case ChildState::kWaiting:
      return "waiting";
    case ChildState::kStarting:
      return "starting";
    case ChildState::kReady:
      return "ready";
    case ChildState::kBackoff:
      return "restarting";
    case ChildState::kStopped:
      return "stopped";
    case ChildState::kFailed:
      return "failed";
  }
  TS_CHECK(false);
}

Supervisor::Supervisor(SupervisorOptions options, std::vector<ChildSpec> children, EventFn on_event)
    : options_(options), on_event_(std::move(on_event)) {
  children_.reserve(children.size());
  for (ChildSpec& spec : children) children_.emplace_back().spec = std::move(spec);
}

Supervisor::~Supervisor() {
  while (!children_.empty()) children_.pop_back();
}

void Supervisor::Report(const Child& child, const std::string& text) {
  if (on_event_)
    on_event_({child.spec.name, child.state, absl::StrCat(child.spec.name, " ", text)});
}

bool Supervisor::DependenciesReady(const Child& child) const {
  return std::all_of(children_.begin(), children_.end(), [&child](const Child& other) {
    const auto& after = child.spec.after;
    return std::find(after.begin(), after.end(), other.spec.name) == after.end() ||
           other.state == ChildState::kReady;
  });
}

absl::Status Supervisor::StartChild(Child& child, int64_t now_ms) {
  TS_ASSIGN_OR_RETURN(ChildProcess process, ChildProcess::Spawn(child.spec));
  child.process.emplace(std::move(process));
  child.state = ChildState::kStarting;
  child.state_since_ms = now_ms;
  child.started_unix_ms = UnixMs();
  child.ready_text.clear();
  ++child.starts;
  Report(child, absl::StrCat("started, pid ", child.process->pid()));
  return absl::OkStatus();
}

void Supervisor::StartDue(int64_t now_ms) {
  for (Child& child : children_) {
    const bool due = child.state == ChildState::kWaiting ||
                     (child.state == ChildState::kBackoff && now_ms >= child.restart_at_ms);
    if (!due || !failure_.ok() || !DependenciesReady(child)) continue;
    const absl::Status started = StartChild(child, now_ms);
    if (started.ok()) continue;
    child.state = ChildState::kFailed;
    failure_ = absl::AbortedError(std::string(started.message()));
    exit_code_ = kExitRuntime;
  }
}

int64_t Supervisor::MsToNextDeadline(int64_t now_ms, int64_t limit_ms) const {
  int64_t wait_ms = limit_ms;
  for (const Child& child : children_) {
    if (child.state == ChildState::kBackoff && DependenciesReady(child)) {
      wait_ms = std::min(wait_ms, child.restart_at_ms - now_ms);
    } else if (child.state == ChildState::kStarting) {
      wait_ms =
          std::min(wait_ms, child.state_since_ms + options_.restart.start_timeout_ms - now_ms);
    }
  }
  return std::max<int64_t>(wait_ms, 0);
}

void Supervisor::ReadReadiness(Child& child, int64_t now_ms) {
  char buffer[512];
  const ssize_t bytes = read(child.process->ready_fd(), buffer, sizeof buffer);
  if (bytes == 0) child.process->CloseReadyFd();  // the start timeout or its end decides
  if (bytes <= 0) return;
  child.ready_text.append(buffer, static_cast<size_t>(bytes));
  const std::string lines = absl::StrCat("\n", child.ready_text);
  if (lines.find("\nready\n") != std::string::npos) {
    child.process->CloseReadyFd();
    const int64_t took_ms = now_ms - child.state_since_ms;
    child.state = ChildState::kReady;
    child.state_since_ms = now_ms;
    Report(child, absl::StrCat("is ready after ", Seconds(took_ms)));
  } else if (child.ready_text.size() > kReadyLineBytes) {
    child.ready_text.erase(0, child.ready_text.size() - kReadyLineBytes);
  }
}

void Supervisor::HandleEnd(Child& child, const ChildExit& exit, int64_t now_ms) {
  const int64_t ready_ms =
      child.state == ChildState::kReady ? std::max<int64_t>(now_ms - child.state_since_ms, 1) : 0;
  child.process.reset();
  const RestartDecision decision =
      DecideRestart(options_.restart, exit, ready_ms, child.failures_in_a_row);
  child.failures_in_a_row = decision.failures_in_a_row;
  if (decision.action == RestartDecision::Action::kRestart) {
    child.state = ChildState::kBackoff;
    child.restart_at_ms = now_ms + decision.backoff_ms;
    Report(child, absl::StrCat("ended (", exit.ToString(), "); starting it again in ",
                               Seconds(decision.backoff_ms)));
    return;
  }
  child.state = ChildState::kFailed;
  Report(child, absl::StrCat("ended (", exit.ToString(), "); giving up"));
  if (!failure_.ok()) return;
  exit_code_ = exit.signal == 0 && exit.code >= kExitUsage && exit.code <= kExitNoDevice
                   ? exit.code
                   : static_cast<int>(kExitRuntime);
  failure_ = absl::AbortedError(absl::StrCat(child.spec.name, " ended (", exit.ToString(),
                                             ") after ", child.starts, " start(s); its log is ",
                                             child.spec.log_path.string()));
}

void Supervisor::CheckStartTimeout(Child& child, int64_t now_ms) {
  if (child.state != ChildState::kStarting ||
      now_ms - child.state_since_ms < options_.restart.start_timeout_ms) {
    return;
  }
  Report(child, absl::StrCat("was not ready after ", Seconds(options_.restart.start_timeout_ms),
                             "; killing it"));
  child.process->KillGroup();
  HandleEnd(child, child.process->Reap(), now_ms);
}

absl::Status Supervisor::Step(int64_t timeout_ms, int wake_fd) {
  StartDue(NowMs());
  std::vector<pollfd> fds = {{wake_fd, POLLIN, 0}};
  for (const Child& child : children_) {  // poll skips descriptors that are -1
    fds.push_back({child.process ? child.process->pidfd() : -1, POLLIN, 0});
    fds.push_back({child.process ? child.process->ready_fd() : -1, POLLIN, 0});
  }
  if (failure_.ok()) {
    poll(fds.data(), fds.size(), static_cast<int>(MsToNextDeadline(NowMs(), timeout_ms)));
  }
  const int64_t now_ms = NowMs();
  for (size_t i = 0; i < children_.size(); ++i) {
    Child& child = children_[i];
    if (fds[2 + 2 * i].revents != 0) ReadReadiness(child, now_ms);
    if (fds[1 + 2 * i].revents != 0) HandleEnd(child, child.process->Reap(), now_ms);
    CheckStartTimeout(child, now_ms);
  }
  return failure_;
}

bool Supervisor::AllReady() const {
  return std::all_of(children_.begin(), children_.end(),
                     [](const Child& child) { return child.state == ChildState::kReady; });
}

void Supervisor::StopChild(Child& child, int hurry_fd) {
  if (!child.process) {
    child.state = ChildState::kStopped;
    return;
  }
  child.process->Signal(SIGTERM);
  child.process->Signal(SIGCONT);  // a stopped process would not see the SIGTERM
  const bool ended = WaitReadable(child.process->pidfd(), hurry_fd, options_.stop_timeout_ms);
  if (!ended) child.process->KillGroup();
  const ChildExit exit = child.process->Reap();
  child.process.reset();
  child.state = ChildState::kStopped;
  Report(child, absl::StrCat(ended ? "stopped, " : "did not stop in time and was killed, ",
                             exit.ToString()));
}

void Supervisor::StopAll(int hurry_fd) {
  for (auto child = children_.rbegin(); child != children_.rend(); ++child) {
    StopChild(*child, hurry_fd);
  }
}

std::vector<ChildStatus> Supervisor::Status() const {
  std::vector<ChildStatus> statuses;
  for (const Child& child : children_) {
    statuses.push_back({child.spec.name, child.state, child.process ? child.process->pid() : -1,
                        child.starts, child.started_unix_ms, child.spec.log_path});
  }
  return statuses;
}

}  // namespace tailor
