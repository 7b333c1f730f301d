// Notices that a worker's store is gone, or is another one than before (it was restarted): what the
// worker holds of it is then worthless, and the worker starts again.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "absl/status/status.h"
#include "kvstore/client/kv_client.h"

namespace tailor {

struct StoreWatchOptions {
  int64_t interval_ms = 500;  // shorter notices sooner, at one small call each
  int failures_in_a_row = 3;  // of calls; one is a busy store, not a dead one
};

class StoreWatch {
 public:
  // Asks `store` (which outlives the watch; Stats may be called from any thread) until it is lost,
  // then calls `on_lost` once, on the watch's thread, and ends.
  StoreWatch(const StoreWatchOptions& options, KvClient* store,
             std::function<void(const absl::Status&)> on_lost);
  ~StoreWatch();
  StoreWatch(const StoreWatch&) = delete;
  StoreWatch& operator=(const StoreWatch&) = delete;

 private:
  void Run();
  // OK while the store is there, or may be.
  absl::Status Ask();
  bool WaitInterval();  // false: the watch ends

  const StoreWatchOptions options_;
  KvClient* const store_;
  const std::function<void(const absl::Status&)> on_lost_;
  uint64_t epoch_ = 0;  // watch's thread
  int failures_ = 0;    // watch's thread

  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace tailor
