// Selections and checks from threads of their own while pages come and go: what must hold under the
// thread sanitizer too.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "kvstore/page_store.h"
#include "tests/kvstore/store_rig.h"

namespace tailor {
namespace {

// Selects `rounds` times; every answer must be `want`, bit for bit.
void SelectAgainAndAgain(StoreRig& rig, const HeldSequence& sequence, const Selection& want,
                         int rounds) {
  for (int i = 0; i < rounds; ++i) {
    const auto got = rig.Select(sequence);
    ASSERT_TRUE(got.ok()) << got.status();
    ASSERT_EQ(got->tokens, want.tokens);
    ASSERT_EQ(got->rows, want.rows);
  }
}

// One worker's life under its own lease: prefills, forks, seals, detaches, reattaches, closes.
void ComeAndGo(StoreRig& rig, uint32_t worker, const std::atomic<bool>& stop) {
  PageStore& store = *rig.store;
  const std::vector<TokenId> history = KnownTokens(worker, 2 * kPageTokens + 20);
  const std::string tenant = "tenant " + std::to_string(worker);
  while (!stop) {
    const PageStore::LeaseId lease = store.OpenLease();
    ASSERT_TRUE(store.OpenPool(lease, SmallPool()).ok());
    HeldSequence held =
        HeldOf(store.OpenSequence(lease, rig.pool.pool, {tenant, "a"}, history).value());
    const int64_t missing = 3 - static_cast<int64_t>(held.pages.size());
    if (missing > 0) {
      const auto pages = store.ReservePages(lease, held.handle, missing).value();
      held.pages.insert(held.pages.end(), pages.begin(), pages.end());
    }
    for (int64_t t = held.committed; t < 2 * kPageTokens + 20; ++t) {
      WriteToken(rig.view, held.pages[t / kPageTokens], t, history[t], worker);
    }
    CommitInSlot(store, held.slot, 2 * kPageTokens + 20);
    if (held.sealed < 2) {
      ASSERT_TRUE(
          store.SealPages(lease, held.handle, 2 - held.sealed, PageOrigin::kExactPrefill).ok());
    }
    ASSERT_TRUE(store.VerifyPages(lease, held.handle, 0, 2).ok());
    const auto fork = store.ForkSequence(lease, held.handle, {tenant, "fork"});
    ASSERT_TRUE(fork.ok()) << fork.status();
    ASSERT_TRUE(store.CloseSequence(lease, held.handle).ok());
    ASSERT_TRUE(store.DetachSequence(lease, fork->grant.handle).ok());
    ASSERT_TRUE(store.RemoveSequence(lease, {tenant, "fork"}).ok());
    store.DropLease(lease);
  }
}

TEST(PageStoreThreads, SelectionsAreNotDisturbedByOtherSequencesThatComeAndGo) {
  StoreRig rig(32);
  const HeldSequence stable = rig.Written("stable", KnownTokens(9, 4 * kPageTokens), 9);
  const Selection want = rig.Select(stable).value();
  std::atomic<bool> stop = false;
  std::vector<std::thread> workers, selectors;
  for (uint32_t w = 1; w <= 2; ++w) {
    workers.emplace_back([&, w] { ComeAndGo(rig, w, stop); });
  }
  for (int s = 0; s < 2; ++s) {
    selectors.emplace_back([&] { SelectAgainAndAgain(rig, stable, want, 400); });
  }
  for (int i = 0; i < 200; ++i) EXPECT_TRUE(rig.store->Audit().ok()) << rig.store->Audit();
  for (std::thread& selector : selectors) selector.join();
  stop = true;
  for (std::thread& worker : workers) worker.join();
  const StoreStats stats = rig.store->Stats();
  EXPECT_EQ(stats.checksum_failures, 0);
  EXPECT_EQ(stats.stale_refusals, 0);
  EXPECT_EQ(stats.pages_sealed, 4);
  EXPECT_EQ(stats.pages_free, 28);
}

// A worker reserves its next page while its selections, posted ahead, still run.
TEST(PageStoreThreads, ASelectionMayRunWhileItsSequenceReservesPages) {
  StoreRig rig(256, int64_t{32} << 20);
  const HeldSequence held = rig.Written("a", KnownTokens(9, 2 * kPageTokens), 9);
  const Selection want = rig.Select(held).value();
  std::vector<std::thread> selectors;
  for (int s = 0; s < 2; ++s) {
    selectors.emplace_back([&] { SelectAgainAndAgain(rig, held, want, 300); });
  }
  for (int i = 0; i < 200; ++i) {
    EXPECT_TRUE(rig.store->ReservePages(rig.lease, held.handle, 1).ok());
    EXPECT_TRUE(rig.store->VerifyPages(rig.lease, held.handle, 0, 1).ok());
  }
  for (std::thread& selector : selectors) selector.join();
}

// The sequence may be closed and even its pool given up before the check reports what it found.
TEST(PageStoreThreads, ACheckThatFindsDamageOutlivesItsPool) {
  constexpr int64_t kPages = 16;
  const std::vector<TokenId> history = KnownTokens(1, kPages * kPageTokens);
  PoolSpec other = SpecOfPages(kPages);
  other.policy.bytes[0] = 77;
  for (int round = 0; round < 20; ++round) {
    StoreRig rig(kPages, int64_t{8} << 20);
    const HeldSequence held = rig.Written("a", history);
    rig.view.Rows(0, 0, held.pages.back())->bits ^= 1;
    const PageStore::LeaseId lease = rig.lease;
    std::atomic<int> found = 0;
    std::thread checker([&] {
      while (absl::IsDataLoss(rig.store->VerifyPages(lease, held.handle, 0, kPages))) ++found;
    });
    while (found == 0) std::this_thread::yield();
    EXPECT_TRUE(rig.Close(held).ok());
    rig.store->DropLease(rig.lease);
    rig.lease = rig.store->OpenLease();
    EXPECT_TRUE(rig.store->OpenPool(rig.lease, other).ok());
    checker.join();
    EXPECT_EQ(rig.store->Stats().checksum_failures, found);
  }
}

}  // namespace
}  // namespace tailor
