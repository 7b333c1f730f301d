// A page store with one lease and one small pool; sequences of known content written into it.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/status.h"
#include "kvstore/page_store.h"
#include "tests/kvstore/client/written_sequence.h"

namespace tailor {

// SmallPool with room for exactly `pages` pages.
inline PoolSpec SpecOfPages(int64_t pages) {
  PoolSpec spec = SmallPool();
  spec.max_bytes = PoolLayout::Make(spec.shape, pages)->bytes();
  return spec;
}

inline void CommitInSlot(const PageStore& store, uint32_t slot, int64_t tokens) {
  store.arena().slot(slot)->committed_tokens.store(tokens, std::memory_order_release);
}

// A sequence as its worker keeps it.
struct HeldSequence {
  SequenceHandle handle;
  uint32_t slot = 0;
  std::vector<PageId> pages;
  int64_t sealed = 0, committed = 0;
  bool exact = false;
};

inline HeldSequence HeldOf(StoreGrant granted) {
  return {.handle = granted.grant.handle,
          .slot = granted.slot,
          .pages = std::move(granted.grant.pages),
          .sealed = granted.grant.sealed_pages,
          .committed = granted.grant.committed_tokens,
          .exact = granted.grant.exact};
}

class StoreRig {
 public:
  explicit StoreRig(int64_t pages = 16, int64_t arena_bytes = int64_t{4} << 20)
      : store(PageStore::Create({.arena_bytes = arena_bytes}).value()),
        lease(store->OpenLease()),
        pool(store->OpenPool(lease, SpecOfPages(pages)).value()),
        view(store->arena().base() + pool.arena_offset, pool.layout) {}
  ~StoreRig() { EXPECT_TRUE(store->Audit().ok()) << store->Audit(); }

  absl::StatusOr<HeldSequence> Open(const SequenceKey& key, std::span<const TokenId> history) {
    auto granted = store->OpenSequence(lease, pool.pool, key, history);
    if (!granted.ok()) return granted.status();
    return HeldOf(*std::move(granted));
  }

  // Writes and commits history[committed, end), with rows of `seed`.
  absl::Status Write(HeldSequence& sequence, std::span<const TokenId> history, uint32_t seed) {
    const auto end = static_cast<int64_t>(history.size());
    const int64_t missing =
        (end + kPageTokens - 1) / kPageTokens - static_cast<int64_t>(sequence.pages.size());
    if (missing > 0) {
      TS_ASSIGN_OR_RETURN(const auto pages, store->ReservePages(lease, sequence.handle, missing));
      sequence.pages.insert(sequence.pages.end(), pages.begin(), pages.end());
    }
    for (int64_t t = sequence.committed; t < end; ++t) {
      WriteToken(view, sequence.pages[t / kPageTokens], t, history[t], seed);
    }
    sequence.committed = end;
    CommitInSlot(*store, sequence.slot, end);
    return absl::OkStatus();
  }

  absl::Status Seal(HeldSequence& sequence, int64_t pages,
                    PageOrigin origin = PageOrigin::kExactPrefill) {
    TS_RETURN_IF_ERROR(store->SealPages(lease, sequence.handle, pages, origin));
    sequence.sealed += pages;
    return absl::OkStatus();
  }

  // Tenant "t": all of `history` written with rows of `seed`, its whole pages sealed as exact.
  HeldSequence Written(const std::string& name, std::span<const TokenId> history,
                       uint32_t seed = 1) {
    HeldSequence sequence = Open({.tenant = "t", .name = name}, history).value();
    TS_CHECK(Write(sequence, history, seed).ok());
    const int64_t whole = sequence.committed / kPageTokens - sequence.sealed;
    if (whole > 0) TS_CHECK(Seal(sequence, whole).ok());
    return sequence;
  }

  absl::Status Detach(const HeldSequence& sequence) {
    return store->DetachSequence(lease, sequence.handle);
  }
  absl::Status Close(const HeldSequence& sequence) {
    return store->CloseSequence(lease, sequence.handle);
  }

  absl::StatusOr<Selection> Select(const HeldSequence& sequence, int32_t layer = 1) {
    const std::vector<float> q = KnownQuery(view.shape(), 4, 5);
    SelectScratch scratch;
    Selection selection;
    const auto shape = store->Select(lease,
                                     {.sequence = sequence.handle,
                                      .layer = layer,
                                      .sealed_pages = sequence.sealed,
                                      .q = q,
                                      .params = {.channels = 4, .top_k = 32, .sink_tokens = 4}},
                                     scratch, &selection);
    if (!shape.ok()) return shape.status();
    return selection;
  }

  std::shared_ptr<PageStore> store;
  PageStore::LeaseId lease;
  OpenedPool pool;
  PoolView view;
};

}  // namespace tailor
