// Sleeping on a 32-bit word that several processes map. Shared futexes only: a private one is keyed
// by address space and would never be woken from the other process.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>

namespace tailor {

static_assert(sizeof(std::atomic<uint32_t>) == 4 && std::atomic<uint32_t>::is_always_lock_free);

// CLOCK_MONOTONIC in nanoseconds: the same clock in every process of a host, so that a deadline can
// cross shared memory. Never jumps with the wall clock.
int64_t MonotonicNowNs();

enum class FutexWake {
  kWokenOrChanged,  // woken, interrupted, or the word already differed: look again
  kDeadline,        // deadline_ns has passed
};

// Sleeps while `word` holds `expected`, at most until deadline_ns (MonotonicNowNs). May wake for no
// reason, so call it in a loop.
FutexWake FutexWait(const std::atomic<uint32_t>& word, uint32_t expected, int64_t deadline_ns);

struct FutexExpectation {
  const std::atomic<uint32_t>* word;
  uint32_t expected;
};
inline constexpr int kMaxFutexWaits = 128;  // of one FutexWaitAny: the kernel's limit

// The same over up to kMaxFutexWaits words. Where the kernel (before 5.16) or a sandbox lacks
// futex_waitv, it naps 200 us and returns: slower, never wrong.
FutexWake FutexWaitAny(std::span<const FutexExpectation> words, int64_t deadline_ns);

// Wakes up to `waiters` sleepers of `word`.
void FutexWakeSome(const std::atomic<uint32_t>& word, int waiters);

// Tells the core that this is a spin loop.
inline void CpuRelax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace tailor
