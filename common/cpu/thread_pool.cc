#include "common/cpu/thread_pool.h"

#include <algorithm>
#include <chrono>

#include "common/status.h"

namespace tailor {
namespace {

void Pause() { __builtin_ia32_pause(); }

}  // namespace

ThreadPool::ThreadPool(int threads, int spin_us) : spin_us_(spin_us), claims_(threads) {
  TS_CHECK(threads >= 1);
  for (int worker = 1; worker < threads; ++worker) {
    workers_.emplace_back([this, worker] { Work(worker); });
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  job_.fetch_add(1, std::memory_order_seq_cst);
  job_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

// The newest job, once it differs from `seen`.
uint32_t ThreadPool::WaitForJob(uint32_t seen) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::microseconds(spin_us_);
  uint32_t job = seen;
  for (int spins = 0; (job = job_.load(std::memory_order_acquire)) == seen; ++spins) {
    Pause();
    if (spins % 64 == 63 && std::chrono::steady_clock::now() > deadline) {
      sleepers_.fetch_add(1, std::memory_order_seq_cst);
      job_.wait(seen, std::memory_order_seq_cst);
      sleepers_.fetch_sub(1, std::memory_order_relaxed);
    }
  }
  return job;
}

// True for one caller per worker and job. Claims only grow, so a worker that wakes late takes nothing;
// and a job cannot end before all its parts are taken, so who takes one finds fn_ to be that job's.
bool ThreadPool::TakePart(int worker, uint32_t job) {
  std::atomic<uint32_t>& claim = claims_[worker].job;
  uint32_t last = claim.load(std::memory_order_relaxed);
  return static_cast<int32_t>(job - last) > 0 && claim.compare_exchange_strong(last, job);
}

void ThreadPool::DoPart(int worker) {
  (*fn_)(worker);
  if (pending_.fetch_sub(1, std::memory_order_release) == 1) pending_.notify_one();
}

void ThreadPool::Work(int worker) {
  uint32_t seen = 0;
  while (true) {
    seen = WaitForJob(seen);
    if (stop_.load(std::memory_order_relaxed)) return;
    if (TakePart(worker, seen)) DoPart(worker);
  }
}

void ThreadPool::AwaitParts() {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::microseconds(spin_us_);
  int pending = 0;
  for (int spins = 0; (pending = pending_.load(std::memory_order_acquire)) > 0; ++spins) {
    Pause();
    if (spins % 64 == 63 && std::chrono::steady_clock::now() > deadline) {
      pending_.wait(pending, std::memory_order_acquire);
    }
  }
}

void ThreadPool::Run(absl::FunctionRef<void(int)> fn) {
  if (workers_.empty()) return fn(0);
  fn_ = &fn;
  pending_.store(threads(), std::memory_order_relaxed);
  const uint32_t job = job_.fetch_add(1, std::memory_order_seq_cst) + 1;
  // A sleeper counts itself before it checks job_ again, so one of the two sees the other.
  if (sleepers_.load(std::memory_order_seq_cst) > 0) job_.notify_all();
  DoPart(0);
  for (int worker = 1; worker < threads(); ++worker) {
    if (TakePart(worker, job)) DoPart(worker);
  }
  AwaitParts();
}

void ThreadPool::ParallelFor(int64_t units, absl::FunctionRef<void(int64_t, int64_t)> fn) {
  const int64_t workers = threads();
  if (units == 0) return;
  Run([&](int worker) {
    const int64_t first = units * worker / workers, last = units * (worker + 1) / workers;
    if (first < last) fn(first, last);
  });
}

void ThreadPool::ForEach(int64_t units, absl::FunctionRef<void(int64_t, int)> fn) {
  std::atomic<int64_t> next{0};
  Run([&](int worker) {
    while (true) {
      const int64_t unit = next.fetch_add(1, std::memory_order_relaxed);
      if (unit >= units) return;
      fn(unit, worker);
    }
  });
}

}  // namespace tailor
