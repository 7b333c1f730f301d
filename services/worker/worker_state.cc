#include "services/worker/worker_state.h"

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace tailor {

void WorkerState::SetLoading(std::string activity, int64_t done, int64_t total) {
  const std::lock_guard lock(mutex_);
  progress_ = {WorkerPhase::kLoading, std::move(activity), done, total};
}

void WorkerState::SetServing(std::shared_ptr<Engine> engine) {
  const std::lock_guard lock(mutex_);
  engine_ = std::move(engine);
  progress_ = {WorkerPhase::kServing, "serving", 1, 1};
}

void WorkerState::SetFailed(const absl::Status& why) {
  const std::lock_guard lock(mutex_);
  progress_ = {WorkerPhase::kFailed, std::string(why.message()), 0, 0};
}

std::shared_ptr<Engine> WorkerState::SetStopping(std::string why) {
  const std::lock_guard lock(mutex_);
  progress_ = {WorkerPhase::kStopping, std::move(why), 0, 0};
  return std::move(engine_);
}

absl::StatusOr<std::shared_ptr<Engine>> WorkerState::engine() const {
  const std::lock_guard lock(mutex_);
  switch (progress_.phase) {
    case WorkerPhase::kServing:
      return engine_;
    case WorkerPhase::kLoading:
      return absl::UnavailableError(absl::StrCat(
          "the worker is loading (", progress_.activity,
          progress_.total > 0 ? absl::StrCat(", ", 100 * progress_.done / progress_.total, "%")
                              : "",
          "); try again in a moment"));
    case WorkerPhase::kStopping:
      return absl::UnavailableError(absl::StrCat("the worker is stopping: ", progress_.activity));
    case WorkerPhase::kFailed:
      return absl::UnavailableError(absl::StrCat("the worker failed: ", progress_.activity));
  }
  TS_CHECK(false);
}

WorkerProgress WorkerState::progress() const {
  const std::lock_guard lock(mutex_);
  WorkerProgress progress = progress_;
  progress.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - started_).count();
  return progress;
}

}  // namespace tailor
