#include "services/worker/store_watch.h"

#include <chrono>
#include <utility>

#include "common/status.h"

namespace tailor {

StoreWatch::StoreWatch(const StoreWatchOptions& options, KvClient* store,
                       std::function<void(const absl::Status&)> on_lost)
    : options_(options), store_(store), on_lost_(std::move(on_lost)), thread_([this] { Run(); }) {}

StoreWatch::~StoreWatch() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

bool StoreWatch::WaitInterval() {
  std::unique_lock lock(mutex_);
  wake_.wait_for(lock, std::chrono::milliseconds(options_.interval_ms),
                 [this] { return stopping_; });
  return !stopping_;
}

absl::Status StoreWatch::Ask() {
  const absl::StatusOr<StoreStats> stats = store_->Stats();
  if (stats.ok()) {
    failures_ = 0;
    if (epoch_ == 0) epoch_ = stats->epoch;
    if (stats->epoch == epoch_) return absl::OkStatus();
    return absl::FailedPreconditionError(
        absl::StrCat("the store was restarted: its epoch is ", stats->epoch, ", was ", epoch_));
  }
  ++failures_;
  const bool certain = absl::IsFailedPrecondition(stats.status());
  return certain || failures_ >= options_.failures_in_a_row ? stats.status() : absl::OkStatus();
}

void StoreWatch::Run() {
  while (WaitInterval()) {
    const absl::Status there = Ask();
    if (there.ok()) continue;
    on_lost_(there);
    return;
  }
}

}  // namespace tailor
