// A single-producer, single-consumer ring in memory that two processes share. The two ends do not
// trust each other: each keeps its own index privately, copies a slot out before looking at it, and
// reports an impossible index of the other as corruption.
//
//   producer: write slot; head = h + 1; if (sleeping) wake on head
//   consumer: sees head; copies slot; tail = t + 1
//   consumer about to sleep: sleeping = 1; look at head again; futex wait on head
//
// "head, then sleeping" and "sleeping, then head" are sequentially consistent: at least one side
// sees the other, so no wake-up is lost. (Fences would do; ThreadSanitizer does not know them.)
// Indices are 32-bit counters that wrap; index % capacity is the slot, capacity a power of two.
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "common/shm/futex.h"
#include "common/status.h"

namespace tailor {

// Shared words, each on its own cache line. Zero-filled memory is an empty ring.
struct SpscIndices {
  alignas(64) std::atomic<uint32_t> head;  // written by the producer; pairs with TryPop
  alignas(64) std::atomic<uint32_t> tail;  // written by the consumer; pairs with TryPush
  alignas(
      64) std::atomic<uint32_t> sleeping;  // consumers asleep on head: 0 none; pairs with TryPush
};
static_assert(sizeof(SpscIndices) == 192);
static_assert(offsetof(SpscIndices, tail) == 64 && offsetof(SpscIndices, sleeping) == 128);

enum class RingResult { kOk, kNotNow /* full or empty */, kCorrupt /* impossible index */ };

template <typename Slot>
class SpscProducer {
  static_assert(std::is_trivially_copyable_v<Slot>);

 public:
  // Starts at the shared head: the ring may have been used before by another producer.
  SpscProducer(SpscIndices* indices, std::span<Slot> slots)
      : indices_(indices), slots_(slots), head_(indices->head.load(std::memory_order_relaxed)) {
    TS_CHECK(std::has_single_bit(slots.size()));
  }

  uint32_t next() const { return head_; }  // the index that the next push will have

  // kNotNow: full.
  RingResult TryPush(const Slot& slot) {
    const uint32_t used = head_ - indices_->tail.load(std::memory_order_acquire);
    if (used > slots_.size()) return RingResult::kCorrupt;
    if (used == slots_.size()) return RingResult::kNotNow;
    slots_[head_ & (slots_.size() - 1)] = slot;
    // Publishes the slot to TryPop; seq_cst against RingWaiter::Sleep, see above.
    indices_->head.store(++head_, std::memory_order_seq_cst);
    if (indices_->sleeping.load(std::memory_order_seq_cst) != 0) FutexWakeSome(indices_->head, 1);
    return RingResult::kOk;
  }

 private:
  SpscIndices* indices_;
  std::span<Slot> slots_;
  uint32_t head_;
};

template <typename Slot>
class SpscConsumer {
  static_assert(std::is_trivially_copyable_v<Slot>);

 public:
  SpscConsumer(SpscIndices* indices, std::span<Slot> slots)
      : indices_(indices), slots_(slots), tail_(indices->tail.load(std::memory_order_relaxed)) {
    TS_CHECK(std::has_single_bit(slots.size()));
  }

  SpscIndices* indices() const { return indices_; }
  uint32_t next() const { return tail_; }  // the index that the next pop will have

  // Copies the oldest slot to `out`, private memory. kNotNow: empty, that is head == next().
  RingResult TryPop(Slot* out) {
    const uint32_t used = indices_->head.load(std::memory_order_acquire) - tail_;
    if (used > slots_.size()) return RingResult::kCorrupt;
    if (used == 0) return RingResult::kNotNow;
    *out = slots_[tail_ & (slots_.size() - 1)];
    indices_->tail.store(++tail_, std::memory_order_release);  // pairs with the acquire in TryPush
    return RingResult::kOk;
  }

 private:
  SpscIndices* indices_;
  std::span<Slot> slots_;
  uint32_t tail_;
};

}  // namespace tailor
