// Which Generate call runs a sequence's turn, so that Cancel can find it. Thread-safe.
#pragma once

#include <map>
#include <memory>
#include <mutex>

#include "kvstore/client/kv_client.h"

namespace tailor {

class CancellableTurn {
 public:
  virtual ~CancellableTurn() = default;
  virtual void CancelTurn() = 0;
};

class RunningTurns {
 public:
  void Add(const SequenceKey& key, std::weak_ptr<CancellableTurn> turn) {
    const std::lock_guard lock(mutex_);
    turns_[key] = std::move(turn);
  }
  // Does nothing when the sequence already runs another turn.
  void Remove(const SequenceKey& key, const CancellableTurn* turn) {
    const std::lock_guard lock(mutex_);
    const auto it = turns_.find(key);
    if (it == turns_.end()) return;
    const std::shared_ptr<CancellableTurn> found = it->second.lock();
    if (found == nullptr || found.get() == turn) turns_.erase(it);
  }
  // Whether there was one.
  bool Cancel(const SequenceKey& key) {
    const std::shared_ptr<CancellableTurn> turn = Find(key);
    if (turn != nullptr) turn->CancelTurn();
    return turn != nullptr;
  }

 private:
  std::shared_ptr<CancellableTurn> Find(const SequenceKey& key) {
    const std::lock_guard lock(mutex_);
    const auto it = turns_.find(key);
    return it == turns_.end() ? nullptr : it->second.lock();
  }

  std::mutex mutex_;
  std::map<SequenceKey, std::weak_ptr<CancellableTurn>> turns_;  // guarded by mutex_
};

}  // namespace tailor
