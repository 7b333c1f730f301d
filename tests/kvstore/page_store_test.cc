// Each promise of page_store.h and kv_client.h on leases, pools, reservations, seals and checks.
// Prefixes, forks and tenants: page_store_sharing_test.cc. Random calls: page_store_model_test.cc.
#include "kvstore/page_store.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "tests/kvstore/store_rig.h"

namespace tailor {
namespace {

using Code = absl::StatusCode;

constexpr int64_t kHuge = std::numeric_limits<int64_t>::max();

bool Says(const absl::Status& status, Code code, const std::string& part) {
  const bool says =
      status.code() == code && std::string(status.message()).find(part) != std::string::npos;
  if (!says)
    ADD_FAILURE() << "want " << absl::StatusCodeToString(code) << " '" << part << "', got "
                  << status;
  return says;
}

// --- leases --------------------------------------------------------------------------------------

// Every call under `lease` on `handle`.
std::vector<absl::Status> EveryCall(StoreRig& rig, PageStore::LeaseId lease,
                                    SequenceHandle handle) {
  SelectScratch scratch;
  Selection out;
  const std::vector<float> q = KnownQuery(rig.view.shape(), 4, 5);
  PageStore& store = *rig.store;
  return {
      store.ForkSequence(lease, handle, {.tenant = "t", .name = "child"}).status(),
      store.ReservePages(lease, handle, 1).status(),
      store.SealPages(lease, handle, 1, PageOrigin::kDecoded),
      store.VerifyPages(lease, handle, 0, 1),
      store.DetachSequence(lease, handle),
      store.CloseSequence(lease, handle),
      store
          .Select(lease, {.sequence = handle, .layer = 1, .sealed_pages = 1, .q = q, .params = {}},
                  scratch, &out)
          .status()};
}

TEST(PageStoreLeases, ALeaseThatIsNotHeldIsRefusedByEveryCallAndCounted) {
  StoreRig rig;
  const HeldSequence held = rig.Written("a", KnownTokens(1, 200));
  const PageStore::LeaseId stranger = rig.lease + 1;
  std::vector<absl::Status> refusals = EveryCall(rig, stranger, held.handle);
  refusals.push_back(rig.store->OpenPool(stranger, SmallPool()).status());
  refusals.push_back(
      rig.store->OpenSequence(stranger, rig.pool.pool, {.tenant = "t", .name = "b"}, {}).status());
  refusals.push_back(rig.store->RemoveSequence(stranger, {.tenant = "t", .name = "a"}));
  for (const absl::Status& refusal : refusals) {
    Says(refusal, Code::kFailedPrecondition, "lease 2 is not held");
  }
  EXPECT_EQ(rig.store->Stats().stale_refusals, static_cast<int64_t>(refusals.size()));
}

TEST(PageStoreLeases, AHandleIsNoRightUnderAnotherLease) {
  StoreRig rig;
  const HeldSequence held = rig.Written("a", KnownTokens(1, 200));
  const PageStore::LeaseId other = rig.store->OpenLease();
  ASSERT_TRUE(rig.store->OpenPool(other, SmallPool()).ok());
  for (const absl::Status& refusal : EveryCall(rig, other, held.handle)) {
    Says(refusal, Code::kFailedPrecondition, "is stale");
  }
  EXPECT_EQ(rig.store->Stats().stale_refusals, 7);
  EXPECT_TRUE(rig.Select(held).ok()) << "the holder is not disturbed";
}

TEST(PageStoreLeases, ADroppedLeaseDetachesWhatCommittedAndClosesTheRest) {
  StoreRig rig;
  const std::vector<TokenId> history = KnownTokens(1, 200);
  const HeldSequence kept = rig.Written("kept", history);
  ASSERT_TRUE(rig.store->ReservePages(rig.lease, kept.handle, 3).ok());
  const HeldSequence empty = rig.Open({.tenant = "t", .name = "empty"}, KnownTokens(2, 50)).value();
  ASSERT_TRUE(rig.store->ReservePages(rig.lease, empty.handle, 2).ok());
  rig.store->DropLease(rig.lease);
  const StoreStats stats = rig.store->Stats();
  EXPECT_EQ(stats.sequences_attached, 0);
  EXPECT_EQ(stats.sequences_detached, 1);
  EXPECT_EQ(stats.pages_sealed, 1);
  EXPECT_EQ(stats.pages_open, 1) << "it holds 72 committed tokens";
  EXPECT_EQ(stats.pages_free, 14);

  rig.lease = rig.store->OpenLease();
  ASSERT_TRUE(rig.store->OpenPool(rig.lease, SmallPool()).ok());
  const HeldSequence again = rig.Open({.tenant = "t", .name = "kept"}, history).value();
  EXPECT_EQ(again.committed, 200);
  EXPECT_EQ(again.pages, kept.pages);
  EXPECT_EQ(again.handle.id, kept.handle.id);
  EXPECT_NE(again.handle.generation, kept.handle.generation);
}

TEST(PageStoreLeases, DroppingALeaseThatIsGoneChangesNothing) {
  StoreRig rig;
  const HeldSequence held = rig.Written("a", KnownTokens(1, 200));
  rig.store->DropLease(rig.lease + 7);
  EXPECT_TRUE(rig.Select(held).ok());
  rig.store->DropLease(rig.lease);
  const StoreStats before = rig.store->Stats();
  rig.store->DropLease(rig.lease);
  EXPECT_EQ(rig.store->Stats().sequences_detached, before.sequences_detached);
}

TEST(PageStoreLeases, AWorkersClaimPastItsPagesOrBelowItsSealsIsCutToThem) {
  StoreRig rig;
  HeldSequence held = rig.Written("a", KnownTokens(1, 300));
  CommitInSlot(*rig.store, held.slot, kHuge);
  ASSERT_TRUE(rig.Detach(held).ok());
  held = rig.Open({.tenant = "t", .name = "a"}, {}).value();
  EXPECT_EQ(held.committed, 3 * kPageTokens);
  CommitInSlot(*rig.store, held.slot, -5);
  ASSERT_TRUE(rig.Detach(held).ok());
  held = rig.Open({.tenant = "t", .name = "a"}, {}).value();
  EXPECT_EQ(held.committed, 2 * kPageTokens);
  EXPECT_EQ(held.pages.size(), 2u);
}

// --- pools ---------------------------------------------------------------------------------------

TEST(PageStorePools, OneSpecIsOnePoolForEveryLease) {
  StoreRig rig;
  const PageStore::LeaseId other = rig.store->OpenLease();
  const auto again = rig.store->OpenPool(other, SmallPool());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->pool, rig.pool.pool);
  EXPECT_EQ(again->arena_offset, rig.pool.arena_offset);
  EXPECT_EQ(again->layout.pages(), 16);
}

TEST(PageStorePools, AnotherShapeUnderTheSameFingerprintsIsRefused) {
  StoreRig rig;
  PoolSpec spec = SmallPool();
  spec.shape.sparse_layers = {1};
  Says(rig.store->OpenPool(rig.lease, spec).status(), Code::kFailedPrecondition, "another shape");
  spec.shape.head_dim = 24;
  Says(rig.store->OpenPool(rig.lease, spec).status(), Code::kInvalidArgument, "head_dim 24");
}

TEST(PageStorePools, APoolThatFindsNoRoomIsRefusedWithTheBytes) {
  StoreRig rig(16);
  PoolSpec spec = SmallPool();
  spec.policy.bytes[0] = 77;
  const int64_t one = PoolLayout::Make(spec.shape, 1)->bytes();
  spec.max_bytes = one - 1;
  const auto refused = rig.store->OpenPool(rig.lease, spec);
  Says(refused.status(), Code::kResourceExhausted,
       absl::StrCat("one page needs ", one, " bytes, ", one - 1, " are free of ",
                    rig.store->arena().bytes()));
  EXPECT_EQ(rig.store->Stats().pages_total, 16);
  spec.max_bytes = one;
  EXPECT_EQ(rig.store->OpenPool(rig.lease, spec)->layout.pages(), 1);
}

TEST(PageStorePools, PoolsNeverOverlapAndAnUnusedOneGivesWay) {
  StoreRig rig(16);
  PoolSpec rest = SmallPool();  // all that is free
  rest.policy.bytes[0] = 77;
  const PageStore::LeaseId other = rig.store->OpenLease();
  const OpenedPool second = rig.store->OpenPool(other, rest).value();
  EXPECT_GE(second.arena_offset,
            rig.pool.arena_offset + static_cast<uint64_t>(rig.pool.layout.bytes()));
  EXPECT_LE(second.arena_offset + static_cast<uint64_t>(second.layout.bytes()),
            static_cast<uint64_t>(rig.store->arena().bytes()));
  PoolSpec third = rest;
  third.policy.bytes[0] = 78;
  EXPECT_EQ(rig.store->OpenPool(rig.lease, third).status().code(), Code::kResourceExhausted);
  rig.store->DropLease(other);
  const auto opened = rig.store->OpenPool(rig.lease, third);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(opened->arena_offset, second.arena_offset);
}

TEST(PageStorePools, APoolWithDetachedSequencesStaysAndOneNeverOpenedIsRefused) {
  StoreRig rig(16);
  const HeldSequence held = rig.Written("a", KnownTokens(1, 200));
  rig.store->DropLease(rig.lease);
  rig.lease = rig.store->OpenLease();
  PoolSpec other = SpecOfPages(2);
  other.policy.bytes[0] = 77;
  ASSERT_TRUE(rig.store->OpenPool(rig.lease, other).ok());
  Says(rig.Open({.tenant = "t", .name = "a"}, {}).status(), Code::kFailedPrecondition,
       "is not open here");
  ASSERT_TRUE(rig.store->OpenPool(rig.lease, SmallPool()).ok());
  EXPECT_EQ(rig.Open({.tenant = "t", .name = "a"}, {})->pages, held.pages);
}

TEST(PageStorePools, AStoreLargerThanTheHostIsRefusedAtStartWithTheShortfallInBytes) {
  Says(PageStore::Create({.arena_bytes = int64_t{1} << 46}).status(), Code::kResourceExhausted,
       "arena of 70368744177664 bytes needs ");
  Says(PageStore::Create({.arena_bytes = 4096}).status(), Code::kInvalidArgument,
       "arena of 4096 bytes, limit 1048576..");
}

// --- reservations and eviction -------------------------------------------------------------------

TEST(PageStorePages, MoreThanThereAreIsRefusedWithTheNumbersAndNothingIsTaken) {
  StoreRig rig(8);
  const HeldSequence held = rig.Written("a", KnownTokens(1, 3 * kPageTokens));
  Says(rig.store->ReservePages(rig.lease, held.handle, 6).status(), Code::kResourceExhausted,
       "pages: 6 asked, 5 free of 8");
  Says(rig.store->ReservePages(rig.lease, held.handle, 9).status(), Code::kResourceExhausted,
       "pages: 9 asked, 5 free of 8");
  Says(rig.store->ReservePages(rig.lease, held.handle, kHuge).status(), Code::kResourceExhausted,
       "5 free of 8");
  for (const int64_t count : {int64_t{0}, int64_t{-1}, -kHuge}) {
    Says(rig.store->ReservePages(rig.lease, held.handle, count).status(), Code::kInvalidArgument,
         "pages: " + std::to_string(count) + " asked");
  }
  EXPECT_EQ(rig.store->Stats().pages_free, 5);
  EXPECT_EQ(rig.store->ReservePages(rig.lease, held.handle, 5)->size(), 5u);
}

TEST(PageStorePages, DetachedSequencesGiveWayOldestFirstAndAttachedOnesNever) {
  StoreRig rig(8);
  const HeldSequence oldest = rig.Written("oldest", KnownTokens(1, 2 * kPageTokens), 1);
  const HeldSequence newer = rig.Written("newer", KnownTokens(2, 2 * kPageTokens), 2);
  const HeldSequence attached = rig.Written("attached", KnownTokens(3, 2 * kPageTokens), 3);
  ASSERT_TRUE(rig.Detach(oldest).ok());
  ASSERT_TRUE(rig.Detach(newer).ok());
  ASSERT_TRUE(rig.store->ReservePages(rig.lease, attached.handle, 3).ok());
  EXPECT_EQ(rig.store->Stats().evicted_sequences, 1);
  EXPECT_EQ(rig.Open({.tenant = "t", .name = "oldest"}, {}).status().code(), Code::kNotFound);
  Says(rig.store->ReservePages(rig.lease, attached.handle, 4).status(), Code::kResourceExhausted,
       "pages: 4 asked, 3 free of 8");
  EXPECT_EQ(rig.store->Stats().evicted_sequences, 1) << "a refusal evicts nobody";
  EXPECT_TRUE(rig.Open({.tenant = "t", .name = "newer"}, {}).ok());
  EXPECT_TRUE(rig.Select(attached).ok());
}

TEST(PageStorePages, PagesThatOnlyDetachedSequencesShareAreEvictableToo) {
  StoreRig rig(8);
  const HeldSequence parent = rig.Written("parent", KnownTokens(1, 6 * kPageTokens));
  const auto child =
      rig.store->ForkSequence(rig.lease, parent.handle, {.tenant = "t", .name = "child"});
  ASSERT_TRUE(child.ok()) << child.status();
  ASSERT_TRUE(rig.Detach(parent).ok());
  ASSERT_TRUE(rig.Detach(HeldOf(*child)).ok());
  const HeldSequence asking =
      rig.Open({.tenant = "t", .name = "asking"}, KnownTokens(2, 10)).value();
  Says(rig.store->ReservePages(rig.lease, asking.handle, 9).status(), Code::kResourceExhausted,
       "pages: 9 asked, 8 free of 8");
  const auto pages = rig.store->ReservePages(rig.lease, asking.handle, 8);
  ASSERT_TRUE(pages.ok()) << pages.status();
  EXPECT_EQ(rig.store->Stats().evicted_sequences, 2);
}

TEST(PageStorePages, AFreedPageIsZeroedBeforeAnyoneElseSeesIt) {
  StoreRig rig(2);
  const HeldSequence held = rig.Written("a", KnownTokens(1, 2 * kPageTokens));
  ASSERT_TRUE(rig.Close(held).ok());
  const auto zero = [](const auto* bytes, size_t count) {
    return std::all_of(reinterpret_cast<const char*>(bytes),
                       reinterpret_cast<const char*>(bytes + count), [](char c) { return c == 0; });
  };
  for (const PageId page : held.pages) {
    EXPECT_EQ(rig.view.Header(page)->state, PageState::kFree);
    EXPECT_TRUE(zero(rig.view.Tokens(page), kPageTokens));
    for (int head = 0; head < 2; ++head) {
      for (int layer = 0; layer < 3; ++layer) {
        EXPECT_TRUE(zero(rig.view.Rows(layer, head, page), kPageTokens * 2 * 16));
        EXPECT_TRUE(zero(rig.view.RowChecks(layer, head, page), kPageTokens));
      }
      for (int rank = 0; rank < 2; ++rank) {
        EXPECT_TRUE(zero(rig.view.Index(rank, head, page), kPageTokens * 16));
        EXPECT_TRUE(zero(rig.view.IndexScale(rank, head, page), 16));
        EXPECT_TRUE(zero(rig.view.Kmax(rank, head, page), 16));
      }
    }
  }
}

TEST(PageStorePages, EachHandOutOfAPageHasItsOwnGenerationAndOwner) {
  StoreRig rig(1);
  uint64_t last = 0;
  for (const char* name : {"a", "b", "c"}) {
    const HeldSequence held = rig.Written(name, KnownTokens(1, 100));
    const PageHeader* header = rig.view.Header(held.pages[0]);
    EXPECT_GT(header->generation, last);
    EXPECT_EQ(header->owner_sequence, held.handle.id);
    last = header->generation;
    ASSERT_TRUE(rig.Close(held).ok());
  }
}

// --- seals, checks, the audit --------------------------------------------------------------------

TEST(PageStoreSeals, OnlyCommittedWholePagesAreSealed) {
  StoreRig rig;
  HeldSequence held = rig.Written("a", KnownTokens(1, kPageTokens - 1));
  const auto refused = [&](int64_t count) {
    Says(rig.Seal(held, count), Code::kFailedPrecondition, "1 pages and 127 committed tokens");
  };
  for (const int64_t count : {int64_t{0}, int64_t{-1}, int64_t{1}, int64_t{2}, kHuge}) {
    refused(count);
  }
  ASSERT_TRUE(rig.Write(held, KnownTokens(1, kPageTokens), 1).ok());
  EXPECT_TRUE(rig.Seal(held, 1).ok());
  Says(rig.Seal(held, kHuge), Code::kFailedPrecondition, "after 1");
  Says(rig.Seal(held, kHuge - 1), Code::kFailedPrecondition, "after 1");
}

TEST(PageStoreSeals, VerificationOutsideTheSealedPagesIsRefused) {
  StoreRig rig;
  const HeldSequence held = rig.Written("a", KnownTokens(1, 2 * kPageTokens + 5));
  for (const auto& [first, count] : std::vector<std::pair<int64_t, int64_t>>{
           {-1, 1}, {0, 3}, {2, 1}, {3, 0}, {0, -1}, {1, kHuge}, {kHuge, kHuge}}) {
    Says(rig.store->VerifyPages(rig.lease, held.handle, first, count), Code::kInvalidArgument,
         "the sequence has 2 sealed");
  }
  EXPECT_TRUE(rig.store->VerifyPages(rig.lease, held.handle, 0, 2).ok());
  EXPECT_TRUE(rig.store->VerifyPages(rig.lease, held.handle, 2, 0).ok());
}

TEST(PageStoreSeals, ADamagedRowIsDataLossWhereverItIsReadAndIsCounted) {
  StoreRig rig;
  const HeldSequence held = rig.Written("a", KnownTokens(1, 2 * kPageTokens));
  const Selection whole = rig.Select(held).value();
  const int32_t victim = whole.tokens[3];
  BFloat16* row =
      rig.view.Rows(1, 0, held.pages[victim / kPageTokens]) + (victim % kPageTokens) * 2 * 16;
  row[31].bits ^= 1;  // the last bit of V, as broken memory would
  Says(rig.Select(held).status(), Code::kDataLoss,
       "row check of layer 1 head 0 token " + std::to_string(victim));
  EXPECT_EQ(rig.store->Stats().checksum_failures, 1);
  EXPECT_TRUE(rig.Select(held, 2).ok()) << "the other layer is whole";
  Says(rig.store->VerifyPages(rig.lease, held.handle, 0, 2), Code::kDataLoss,
       " layer 1 head 0 token " + std::to_string(victim % kPageTokens));
  EXPECT_EQ(rig.store->Stats().checksum_failures, 2);
  row[31].bits ^= 1;
  EXPECT_EQ(rig.Select(held)->rows, whole.rows);
}

TEST(PageStoreSeals, DamagedTokenIdsAndChecksAreFoundByTheChecksumOfThePage) {
  StoreRig rig;
  const HeldSequence held = rig.Written("a", KnownTokens(1, 2 * kPageTokens));
  rig.view.Tokens(held.pages[1])[5] ^= 1;
  EXPECT_TRUE(rig.store->VerifyPages(rig.lease, held.handle, 0, 1).ok());
  Says(rig.store->VerifyPages(rig.lease, held.handle, 1, 1), Code::kDataLoss, "checksum of page");
}

TEST(PageStoreSeals, ASelectionThatTheStoreCannotAnswerIsRefused) {
  StoreRig rig;
  HeldSequence held = rig.Written("a", KnownTokens(1, 2 * kPageTokens));
  Says(rig.Select(held, 0).status(), Code::kInvalidArgument, "layer 0 has no index");
  held.sealed = 3;
  Says(rig.Select(held).status(), Code::kFailedPrecondition, "selection over 3 pages");
  held.sealed = -1;
  Says(rig.Select(held).status(), Code::kFailedPrecondition, "selection over -1 pages");
}

TEST(PageStoreSeals, TheAuditSeesWhatDoesNotAddUp) {
  StoreRig rig;
  const HeldSequence held = rig.Written("a", KnownTokens(1, 2 * kPageTokens));
  PageHeader* header = rig.view.Header(held.pages[1]);
  for (const PageState wrong : {PageState::kOpen, PageState::kFree}) {
    header->state = wrong;
    EXPECT_EQ(rig.store->Audit().code(), Code::kInternal);
  }
  header->state = PageState::kSealed;
  EXPECT_TRUE(rig.store->Audit().ok());
}

TEST(PageStoreSlots, MoreAttachedSequencesThanSlotsAreRefusedAndLeaveNoTrace) {
  StoreRig rig(1);
  std::vector<HeldSequence> held;
  const std::vector<TokenId> history = KnownTokens(1, 1);
  for (uint32_t i = 0; i < kArenaSlots; ++i) {
    held.push_back(rig.Open({.tenant = "t", .name = std::to_string(i)}, history).value());
  }
  Says(rig.Open({.tenant = "t", .name = "one more"}, history).status(), Code::kResourceExhausted,
       "4096 of 4096 slots");
  Says(rig.store->ForkSequence(rig.lease, held[0].handle, {.tenant = "t", .name = "fork"}).status(),
       Code::kResourceExhausted, "4096 of 4096 slots");
  EXPECT_EQ(rig.store->Stats().sequences_attached, kArenaSlots);
  ASSERT_TRUE(rig.Close(held[5]).ok());
  EXPECT_EQ(rig.Open({.tenant = "t", .name = "one more"}, history)->slot, held[5].slot);
}

}  // namespace
}  // namespace tailor
