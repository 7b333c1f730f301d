// START HERE. Pages and sequences of one host: open, fork, reserve, seal, select, close.
//
// Invariants, checked by Audit(): every page is free, open (one sequence) or sealed (one or more);
// free + open + sealed == total; a page's references are the sequences that list it; sealed pages
// precede open ones in a sequence. Sealed pages never change.
//
// Thread-safe. One mutex guards the books; seals, clears and selections work on page bytes outside
// it where they can, holding the sequence's own lock so that its pages stay put.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <shared_mutex>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kvstore/arena.h"
#include "kvstore/client/kv_client.h"
#include "kvstore/layout.h"
#include "kvstore/page_pool.h"
#include "kvstore/prefix_index.h"
#include "kvstore/select/select.h"

namespace tailor {

struct PageStoreOptions {
  int64_t arena_bytes = int64_t{1} << 30;  // more holds more sequences; all of it is taken at start
};

struct OpenedPool {
  uint64_t pool = 0;
  uint64_t arena_offset = 0;  // of the pool's first byte
  PoolLayout layout;
};

struct StoreGrant {
  SequenceGrant grant;
  uint32_t slot = 0;  // in the arena's slot table: where commits are published
};

class PageStore {
 public:
  using LeaseId = uint64_t;

  // Errors: ResourceExhausted with the shortfall in bytes.
  static absl::StatusOr<std::shared_ptr<PageStore>> Create(const PageStoreOptions& options);

  uint64_t epoch() const { return epoch_; }
  const Arena& arena() const { return arena_; }

  // --- leases: who may touch what; a dropped lease detaches its sequences, frees open pages past
  // what they committed, and closes those that committed nothing ---
  LeaseId OpenLease();
  void DropLease(LeaseId lease);

  // --- control; semantics and errors as in KvClient ---
  absl::StatusOr<OpenedPool> OpenPool(LeaseId lease, const PoolSpec& spec);
  absl::StatusOr<StoreGrant> OpenSequence(LeaseId lease, uint64_t pool, const SequenceKey& key,
                                          std::span<const TokenId> history);
  absl::StatusOr<StoreGrant> ForkSequence(LeaseId lease, SequenceHandle parent,
                                          const SequenceKey& child);
  absl::StatusOr<std::vector<PageId>> ReservePages(LeaseId lease, SequenceHandle sequence,
                                                   int64_t count);
  absl::Status SealPages(LeaseId lease, SequenceHandle sequence, int64_t count, PageOrigin origin);
  absl::Status VerifyPages(LeaseId lease, SequenceHandle sequence, int64_t first, int64_t count);
  absl::Status DetachSequence(LeaseId lease, SequenceHandle sequence);
  absl::Status CloseSequence(LeaseId lease, SequenceHandle sequence);
  absl::Status RemoveSequence(LeaseId lease, const SequenceKey& key);
  StoreStats Stats() const;

  // --- selection, from any thread. Errors: FailedPrecondition (stale), InvalidArgument, DataLoss ---
  absl::StatusOr<PoolShape> Select(LeaseId lease, const SelectCall& call, SelectScratch& scratch,
                                   Selection* out);

  // The self-check's exact attention; errors as KvClient::AttendExactly.
  absl::StatusOr<std::vector<ExactOutput>> AttendExactly(LeaseId lease, const ExactCall& call);

  // Recounts everything. Internal names the first thing that does not add up.
  absl::Status Audit() const;

 private:
  struct Pool {
    uint64_t id = 0;
    PoolSpec spec;
    uint64_t arena_offset = 0;
    PoolView view;
    PagePool pages{0};
    PrefixIndex prefixes;
    int64_t sealed = 0;  // pages in state kSealed
    std::set<LeaseId> users;
  };
  struct Sequence {
    uint64_t id = 0;
    uint64_t generation = 0;
    SequenceKey key;
    Pool* pool = nullptr;
    LeaseId lease = 0;  // 0: detached
    uint32_t slot = 0;  // valid while attached
    std::vector<PageId> pages;
    int64_t sealed = 0;
    int64_t committed = 0;   // while detached; attached: the slot's
    uint64_t budget = 0;           // the slot's word when the lease ended
    int32_t budget_doublings = 0;  // while detached; attached: the slot's
    int64_t exact_pages = 0;  // leading sealed pages that came from exact prefill
    Fingerprint link;        // prefix chain over the sealed pages
    uint64_t last_used = 0;
    RunningKmax kmax{PoolShape{}};
    // Held shared while a selection reads the pages, exclusive while they change. Taken after
    // mutex_, except that Select lets go of mutex_ once it holds this.
    std::shared_mutex pages_lock;
  };
  using SequencePtr = std::shared_ptr<Sequence>;

  PageStore(Arena arena, uint64_t epoch) : arena_(std::move(arena)), epoch_(epoch) {}

  // All below: mutex_ is held.
  absl::StatusOr<SequencePtr> Find(LeaseId lease, SequenceHandle handle) const;
  absl::StatusOr<Pool*> FindPool(LeaseId lease, uint64_t pool);
  int64_t LargestGap(uint64_t* offset) const;
  void DropUnusedPools();
  absl::Status CheckLease(LeaseId lease) const;
  absl::StatusOr<uint32_t> TakeSlot();
  absl::StatusOr<StoreGrant> Attach(const SequencePtr& sequence, LeaseId lease);
  int64_t Committed(const Sequence& sequence) const;
  int64_t AgreeingTokens(const Sequence& sequence, std::span<const TokenId> history) const;
  SequencePtr NewSequence(Pool* pool, const SequenceKey& key);
  void SharePrefix(Sequence& sequence, std::span<const TokenId> history);
  void TruncateToPages(Sequence& sequence, int64_t pages);
  void Release(Sequence& sequence);
  void Forget(const SequencePtr& sequence);
  absl::StatusOr<std::vector<PageId>> TakePages(Pool& pool, int64_t count);
  void FreePage(Pool& pool, PageId page);
  void CopyOpenPage(const PoolView& view, PageId from, PageId to, int64_t tokens) const;

  Arena arena_;
  const uint64_t epoch_;

  mutable std::mutex mutex_;
  // Guarded by mutex_:
  LeaseId next_lease_ = 1;
  uint64_t next_id_ = 1, next_generation_ = 1, uses_ = 0;
  std::set<LeaseId> leases_;
  std::map<uint64_t, std::unique_ptr<Pool>> pools_;
  std::map<uint64_t, SequencePtr> sequences_;
  std::map<std::pair<uint64_t, SequenceKey>, uint64_t> by_key_;  // (pool, key) -> sequence
  std::vector<uint32_t> free_slots_;
  mutable StoreStats counters_;  // only its counting fields
};

}  // namespace tailor
