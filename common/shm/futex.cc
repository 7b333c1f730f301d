#include "common/shm/futex.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "common/status.h"

namespace tailor {
namespace {

constexpr int64_t kNsPerSecond = 1'000'000'000;
constexpr int64_t kNapNs = 200'000;

timespec ToTimespec(int64_t ns) {
  ns = std::max<int64_t>(ns, 0);
  return {.tv_sec = ns / kNsPerSecond, .tv_nsec = ns % kNsPerSecond};
}

FutexWake NapInstead(int64_t deadline_ns) {
  const int64_t now_ns = MonotonicNowNs();
  if (now_ns >= deadline_ns) return FutexWake::kDeadline;
  const timespec nap = ToTimespec(std::min(kNapNs, deadline_ns - now_ns));
  ::nanosleep(&nap, nullptr);
  return FutexWake::kWokenOrChanged;
}

}  // namespace

int64_t MonotonicNowNs() {
  timespec now;
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * kNsPerSecond + now.tv_nsec;
}

FutexWake FutexWait(const std::atomic<uint32_t>& word, uint32_t expected, int64_t deadline_ns) {
  // FUTEX_WAIT takes a relative time; the bitset form takes an absolute one on CLOCK_MONOTONIC.
  const timespec deadline = ToTimespec(deadline_ns);
  const long rc = ::syscall(SYS_futex, &word, FUTEX_WAIT_BITSET, expected, &deadline, nullptr,
                            FUTEX_BITSET_MATCH_ANY);
  return rc < 0 && errno == ETIMEDOUT ? FutexWake::kDeadline : FutexWake::kWokenOrChanged;
}

FutexWake FutexWaitAny(std::span<const FutexExpectation> words, int64_t deadline_ns) {
  TS_CHECK(!words.empty() && words.size() <= kMaxFutexWaits);
  std::array<futex_waitv, kMaxFutexWaits> waits{};
  for (size_t i = 0; i < words.size(); ++i) {
    waits[i].val = words[i].expected;
    waits[i].uaddr = reinterpret_cast<uintptr_t>(words[i].word);
    waits[i].flags = FUTEX_32;
  }
  const timespec deadline = ToTimespec(deadline_ns);
  const long rc =
      ::syscall(SYS_futex_waitv, waits.data(), words.size(), 0, &deadline, CLOCK_MONOTONIC);
  if (rc >= 0 || errno == EAGAIN || errno == EINTR) return FutexWake::kWokenOrChanged;
  return errno == ETIMEDOUT ? FutexWake::kDeadline : NapInstead(deadline_ns);
}

void FutexWakeSome(const std::atomic<uint32_t>& word, int waiters) {
  ::syscall(SYS_futex, &word, FUTEX_WAKE, waiters, nullptr, nullptr, 0);
}

}  // namespace tailor
