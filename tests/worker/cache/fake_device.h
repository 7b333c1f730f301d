// A device without a device: a thread plays the stream, which runs ops in order and at its own
// pace, and the kernel that writes a query and rings. Delays are drawn from a seed at every point
// where a real one could be slow. A dead device runs nothing more.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <mutex>
#include <random>
#include <thread>

#include "worker/ops/doorbell.h"

namespace tailor {

// Mostly nothing, sometimes the end of a time slice, seldom a few hundred microseconds.
class RandomDelay {
 public:
  explicit RandomDelay(uint32_t seed) : random_(seed) {}
  void operator()() {
    const uint32_t draw = random_() % 64;
    if (draw < 48) return;
    if (draw < 62) return std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::microseconds(random_() % 300));
  }

 private:
  std::mt19937 random_;
};

class FakeDevice final : public DoorbellStream {
 public:
  explicit FakeDevice(uint32_t seed) : delay_(seed), stream_([this] { Run(); }) {}
  ~FakeDevice() override {
    Die();
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
    }
    wake_.notify_one();
    stream_.join();
  }

  absl::StatusOr<std::span<std::byte>> Shared(int64_t bytes) override {
    auto memory = host_.Shared(bytes);
    if (memory.ok()) words_ = &DoorbellMemory(*memory, 0).words();
    return memory;
  }
  // The kernel: the query in two halves, then the word.
  void Ring(std::span<const float> q, const DoorbellMemory& memory, uint64_t number) override {
    Enqueue([this, q, memory, number] {
      const auto half = static_cast<int64_t>(q.size() / 2);
      std::copy(q.begin(), q.begin() + half, memory.query(number));
      delay_();
      std::copy(q.begin() + half, q.end(), memory.query(number) + half);
      delay_();
      memory.words().rung.store(number, std::memory_order_release);
    });
  }
  void Await(const DoorbellMemory& memory, uint64_t number) override {
    Enqueue([this, memory, number] {
      while (memory.words().answered.load(std::memory_order_acquire) < number) {
        if (dead_.load(std::memory_order_relaxed)) return;
        std::this_thread::yield();
      }
    });
  }

  void Enqueue(std::function<void()> op) {
    {
      const std::lock_guard lock(mutex_);
      ops_.push_back(std::move(op));
    }
    wake_.notify_one();
  }
  void Synchronize() {
    auto reached = std::make_shared<std::promise<void>>();
    std::future<void> done = reached->get_future();
    Enqueue([reached] { reached->set_value(); });
    done.wait();
  }
  void Die() { dead_.store(true, std::memory_order_relaxed); }
  uint64_t answered() const { return words_->answered.load(std::memory_order_acquire); }

 private:
  void Run() {
    for (;;) {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return ended_ || !ops_.empty(); });
      if (ended_) return;
      const std::function<void()> op = std::move(ops_.front());
      ops_.pop_front();
      lock.unlock();
      delay_();
      if (!dead_.load(std::memory_order_relaxed)) op();
    }
  }

  HostDoorbell host_;
  DoorbellWords* words_ = nullptr;
  RandomDelay delay_;  // stream
  std::atomic<bool> dead_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> ops_;  // guarded by mutex_
  bool ended_ = false;                     // guarded by mutex_
  std::thread stream_;
};

}  // namespace tailor
