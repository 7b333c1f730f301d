// Where a worker stands: loading, serving, or on its way out. The door between the RPC side and the
// engine, which comes to life after the server does. Thread-safe.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/engine.h"

namespace tailor {

enum class WorkerPhase { kLoading, kServing, kStopping, kFailed };

struct WorkerProgress {
  WorkerPhase phase = WorkerPhase::kLoading;
  std::string activity;         // "connecting to the store": what it does now, or why it failed
  int64_t done = 0, total = 0;  // of that activity; total 0: not known
  double seconds = 0;           // since the process started
};

class WorkerState {
 public:
  void SetLoading(std::string activity, int64_t done, int64_t total);
  void SetServing(std::shared_ptr<Engine> engine);
  void SetFailed(const absl::Status& why);
  // Refuses new turns and gives up the engine: the caller is its last owner once the calls in
  // flight are over.
  std::shared_ptr<Engine> SetStopping(std::string why);

  // Errors: Unavailable "the worker is loading (model weights, 40%); try again in a moment".
  absl::StatusOr<std::shared_ptr<Engine>> engine() const;
  WorkerProgress progress() const;

 private:
  const std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  mutable std::mutex mutex_;
  // Guarded by mutex_:
  WorkerProgress progress_{.activity = "starting"};
  std::shared_ptr<Engine> engine_;
};

}  // namespace tailor
