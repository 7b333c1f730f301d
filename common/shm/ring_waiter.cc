#include "common/shm/ring_waiter.h"

#include <algorithm>
#include <climits>

namespace tailor {

void RingWaiter::Ring() {
  bell_.fetch_add(1, std::memory_order_release);  // pairs with the acquire in bell()
  FutexWakeSome(bell_, INT_MAX);
}

void RingWaiter::Sleep(std::span<const Watched> rings, uint32_t seen_bell, int64_t deadline_ns) {
  rings = rings.first(std::min<size_t>(rings.size(), kMaxRings));
  {
    // The count and the flags change together: else one thread's waking would clear the flags that
    // another has just set, and the producer would let that one sleep on.
    std::lock_guard lock(mutex_);
    ++sleepers_;
    for (const Watched& ring : rings) ring.indices->sleeping.store(1, std::memory_order_seq_cst);
  }
  std::vector<FutexExpectation> words;
  words.reserve(rings.size() + 1);
  words.push_back({&bell_, seen_bell});
  for (const Watched& ring : rings) words.push_back({&ring.indices->head, ring.empty_at});
  // Sequentially consistent, against TryPush's "head, then sleeping".
  const bool news = std::any_of(words.begin(), words.end(), [](const FutexExpectation& w) {
    return w.word->load(std::memory_order_seq_cst) != w.expected;
  });
  if (!news) FutexWaitAny(words, deadline_ns);
  std::lock_guard lock(mutex_);
  if (--sleepers_ > 0) return;
  for (const Watched& ring : rings) ring.indices->sleeping.store(0, std::memory_order_relaxed);
}

}  // namespace tailor
