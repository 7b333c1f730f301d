// Fork-join over the cores of one process: Run(fn) calls fn(worker) on every worker, the caller being
// worker 0, and returns when all are done. Workers spin briefly between calls, then sleep on a futex.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"

namespace tailor {

class ThreadPool {
 public:
  // `threads` >= 1, the caller included. `spin_us`: how long an idle worker spins before it sleeps;
  // longer is faster to start, shorter leaves the core to others.
  explicit ThreadPool(int threads, int spin_us = 50);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }
  // One caller at a time.
  void Run(absl::FunctionRef<void(int worker)> fn);
  // Splits [0, units) into one contiguous range a worker: fn(first, last).
  void ParallelFor(int64_t units, absl::FunctionRef<void(int64_t first, int64_t last)> fn);
  // Workers take units one at a time in no fixed order: fn(unit, worker).
  void ForEach(int64_t units, absl::FunctionRef<void(int64_t unit, int worker)> fn);

 private:
  void Work(int worker);
  bool WaitForJob(uint32_t seen);

  const int spin_us_;
  std::atomic<uint32_t> job_{0};      // pairs with the acquire in WaitForJob; odd bit of stop is stop_
  std::atomic<int> pending_{0};       // pairs with the acquire in Run
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  const absl::FunctionRef<void(int)>* fn_ = nullptr;
  std::vector<std::thread> workers_;
};

}  // namespace tailor
