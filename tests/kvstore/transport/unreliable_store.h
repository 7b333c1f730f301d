// The real page store behind the transport, made slow, held up or wrong at will.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <random>
#include <set>
#include <thread>

#include "kvstore/transport/served_page_store.h"

namespace tailor {

class UnreliableStore : public ServedStore {
 public:
  UnreliableStore(ServedPageStore* store, uint32_t seed) : store_(store), random_(seed) {}

  uint64_t epoch() const override { return store_->epoch() + epoch_shift.load(); }
  ServedArena arena() const override { return store_->arena(); }
  uint64_t AcquireLease() override { return store_->AcquireLease(); }
  void DropLease(uint64_t lease) override { store_->DropLease(lease); }
  absl::StatusOr<Shape> Select(uint64_t lease, const SelectCall& call, SelectScratch& scratch,
                               Selection* out) override {
    Enter();
    auto shape = store_->Select(lease, call, scratch, out);
    if (shape.ok() && short_answers.load() && out->count > 0) {
      --out->count;
      out->tokens.resize(static_cast<size_t>(shape->kv_heads) * out->count);
      out->rows.resize(out->tokens.size() * 2 * shape->head_dim);
    }
    const std::lock_guard lock(mutex_);
    ++left_;
    changed_.notify_all();
    return shape;
  }

  // Selections are numbered from 0 as they arrive; those from now on are held until Let or LetAll.
  void HoldAll() {
    const std::lock_guard lock(mutex_);
    holding_ = true;
  }
  void Let(int64_t arrival) {
    const std::lock_guard lock(mutex_);
    let_.insert(arrival);
    changed_.notify_all();
  }
  void LetAll() {
    const std::lock_guard lock(mutex_);
    holding_ = false;
    changed_.notify_all();
  }
  void AwaitArrivals(int64_t count) const {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return arrived_ >= count; });
  }
  void AwaitDepartures(int64_t count) const {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return left_ >= count; });
  }
  int64_t arrived() const {
    const std::lock_guard lock(mutex_);
    return arrived_;
  }

  std::atomic<bool> short_answers{false};  // a row less than asked for
  std::atomic<uint64_t> epoch_shift{0};    // of another boot
  std::atomic<bool> random_delays{false};

 private:
  void Enter() {
    std::unique_lock lock(mutex_);
    const int64_t arrival = arrived_++;
    const uint32_t draw = random_() % 16;
    const std::chrono::microseconds nap(random_() % 300);
    changed_.notify_all();
    changed_.wait(lock, [&] { return !holding_ || let_.contains(arrival); });
    lock.unlock();
    if (random_delays.load() && draw == 0) std::this_thread::sleep_for(nap);
  }

  ServedPageStore* const store_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  // Guarded by mutex_:
  std::mt19937 random_;
  bool holding_ = false;
  int64_t arrived_ = 0, left_ = 0;
  std::set<int64_t> let_;
};

}  // namespace tailor
