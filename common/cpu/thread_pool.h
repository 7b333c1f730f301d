// Fork-join over the cores of one process: Run(fn) calls fn(worker) once for every worker and returns
// when all are done. The caller is worker 0, and does the part of any worker that has not begun when
// its own is done: on a busy machine a step never waits for a thread to be scheduled. Workers spin
// briefly between calls, then sleep on a futex; so does the caller while a part is unfinished.
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
  // The newest job whose part of one worker was taken, by that worker or by the caller.
  struct alignas(64) Claim {
    std::atomic<uint32_t> job{0};
  };

  void Work(int worker);
  uint32_t WaitForJob(uint32_t seen);
  bool TakePart(int worker, uint32_t job);
  void DoPart(int worker);
  void AwaitParts();

  const int spin_us_;
  std::atomic<uint32_t> job_{0};  // counts Run calls; publishes fn_ and pending_ to WaitForJob
  std::atomic<int> pending_{0};   // parts not done; the release in DoPart pairs with AwaitParts
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  const absl::FunctionRef<void(int)>* fn_ = nullptr;  // of job_; read only by who took a part of it
  std::vector<Claim> claims_;                         // [threads]
  std::vector<std::thread> workers_;
};

}  // namespace tailor
