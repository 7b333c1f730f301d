// An Engine that a test drives by hand: it admits turns and hands their sinks out.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "worker/engine.h"

namespace tailor {

class FakeEngine final : public Engine {
 public:
  struct FakeTurn {
    TurnId id = 0;
    TurnRequest request;
    std::shared_ptr<TurnSink> sink;
  };

  absl::StatusOr<TurnId> Submit(TurnRequest request, std::shared_ptr<TurnSink> sink) override {
    const std::lock_guard lock(mutex_);
    if (!refuse_.ok()) return refuse_;
    const TurnId id = next_++;
    turns_.push_back({id, std::move(request), std::move(sink)});
    changed_.notify_all();
    return id;
  }
  void Cancel(TurnId turn) override {
    const std::lock_guard lock(mutex_);
    cancelled_.push_back(turn);
    changed_.notify_all();
  }
  absl::Status Fork(const SequenceKey& parent, const SequenceKey& child) override {
    const std::lock_guard lock(mutex_);
    forks_.emplace_back(parent, child);
    return control_status_;
  }
  absl::Status Remove(const SequenceKey& sequence) override {
    const std::lock_guard lock(mutex_);
    removed_.push_back(sequence);
    return control_status_;
  }
  const ModelInfo& info() const override { return info_; }
  EngineStats stats() const override { return stats_; }

  // --- the test's side ---
  void Refuse(absl::Status why) {
    const std::lock_guard lock(mutex_);
    refuse_ = std::move(why);
  }
  void SetControlStatus(absl::Status status) {
    const std::lock_guard lock(mutex_);
    control_status_ = std::move(status);
  }
  // Waits for the n-th turn (from 0) and takes it: the engine keeps no sink.
  FakeTurn TakeTurn(size_t n = 0) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, kPatience, [&] { return turns_.size() > n; });
    return turns_.size() > n ? std::move(turns_[n]) : FakeTurn{};
  }
  // Whether the turn is cancelled in time.
  bool AwaitCancel(TurnId turn) { return AwaitCancelFor(turn, kPatience); }
  bool AwaitCancelFor(TurnId turn, std::chrono::milliseconds patience) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, patience, [&] {
      return std::find(cancelled_.begin(), cancelled_.end(), turn) != cancelled_.end();
    });
  }
  std::vector<std::pair<SequenceKey, SequenceKey>> forks() {
    const std::lock_guard lock(mutex_);
    return forks_;
  }
  std::vector<SequenceKey> removed() {
    const std::lock_guard lock(mutex_);
    return removed_;
  }

  ModelInfo info_;     // set before use
  EngineStats stats_;  // set before use

 private:
  static constexpr std::chrono::seconds kPatience{20};
  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_:
  TurnId next_ = 1;
  absl::Status refuse_, control_status_;
  std::vector<FakeTurn> turns_;
  std::vector<TurnId> cancelled_;
  std::vector<std::pair<SequenceKey, SequenceKey>> forks_;
  std::vector<SequenceKey> removed_;
};

}  // namespace tailor
