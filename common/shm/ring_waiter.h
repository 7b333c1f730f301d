// Lets any number of consumer threads sleep until one of several rings has an item.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "common/shm/spsc_ring.h"

namespace tailor {

class RingWaiter {
 public:
  static constexpr int kMaxRings = kMaxFutexWaits - 1;

  // A ring and the head at which its consumer found it empty.
  struct Watched {
    SpscIndices* indices;
    uint32_t empty_at;
  };

  // The doorbell's value. Read it before looking for work: a Ring() after that ends the Sleep.
  uint32_t bell() const { return bell_.load(std::memory_order_acquire); }
  // Wakes every sleeper, for news that is not in a ring: a new ring, or the end.
  void Ring();

  // Returns when a watched head differs from its empty_at, the bell from `seen_bell`, the deadline
  // has passed, or for no reason. Watches the first kMaxRings rings.
  void Sleep(std::span<const Watched> rings, uint32_t seen_bell, int64_t deadline_ns);

 private:
  std::atomic<uint32_t> bell_{0};
  std::mutex mutex_;
  int sleepers_ = 0;  // guarded by mutex_
};

}  // namespace tailor
