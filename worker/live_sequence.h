// The sequences whose KV this worker holds, by key: attach, reuse, detach. Engine thread only.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>

#include "worker/cache/sequence_cache.h"

namespace tailor {

class LiveSequences {
 public:
  LiveSequences(Backend* backend, KvClient* store, const PoolView* pool, const LayerPolicy& policy,
                DoorbellLine* doorbell = nullptr)
      : backend_(backend), store_(store), pool_(pool), policy_(policy), doorbell_(doorbell) {}

  // The sequence's cache, holding a proper prefix of `history`: at least the last token is left to
  // compute. Kept KV that differs is cut back (docs of KvClient::OpenSequence); pages that fail their
  // check are dropped and will be recomputed.
  absl::StatusOr<SequenceCache*> Acquire(const SequenceKey& key, std::span<const TokenId> history,
                                         CacheMode mode);
  // A child sequence with the parent's KV; left detached in the store. NotFound: no KV anywhere.
  absl::Status Fork(const SequenceKey& parent, const SequenceKey& child);
  // Gives the sequence back to the store (kept, evictable). No-op when not held.
  absl::Status Detach(const SequenceKey& key);
  // Forgets the KV in worker and store. No-op when there is none.
  absl::Status Remove(const SequenceKey& key);
  void DetachAll();

  // Detaches least recently used sequences, never one for which `busy` is true, until the others
  // hold at most `idle_bytes` and at most `max_count` - 1 are left.
  template <typename Busy>
  void MakeRoom(int64_t idle_bytes, int max_count, Busy busy) {
    while (const SequenceKey* victim = OldestUnless(busy)) {
      if (count() < max_count && IdleBytes(busy) <= idle_bytes) return;
      const SequenceKey key = *victim;
      (void)Detach(key);  // an unreachable store has no say in what the worker forgets
    }
  }
  // Held by sequences for which `busy` is not true.
  template <typename Busy>
  int64_t IdleBytes(Busy busy) const {
    int64_t bytes = 0;
    for (const auto& [key, entry] : caches_) {
      if (!busy(key)) bytes += entry.cache->totals().worker.total();
    }
    return bytes;
  }

  int count() const { return static_cast<int>(caches_.size()); }
  int64_t worker_bytes() const;

 private:
  struct Entry {
    std::unique_ptr<SequenceCache> cache;
    uint64_t last_used = 0;
  };

  template <typename Busy>
  const SequenceKey* OldestUnless(Busy busy) const {
    const SequenceKey* oldest = nullptr;
    uint64_t oldest_use = 0;
    for (const auto& [key, entry] : caches_) {
      if (busy(key) || (oldest != nullptr && entry.last_used >= oldest_use)) continue;
      oldest = &key;
      oldest_use = entry.last_used;
    }
    return oldest;
  }
  absl::StatusOr<std::unique_ptr<SequenceCache>> Open(const SequenceKey& key,
                                                      std::span<const TokenId> history,
                                                      CacheMode mode);

  Backend* backend_;
  KvClient* store_;
  const PoolView* pool_;
  const LayerPolicy& policy_;
  DoorbellLine* doorbell_;  // null: none
  std::map<SequenceKey, Entry> caches_;
  uint64_t uses_ = 0;
};

}  // namespace tailor
