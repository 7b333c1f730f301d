// Who shares which pages: prefixes, forks, tenants, lives of a sequence and where it is cut back.
#include <gtest/gtest.h>

#include "kvstore/page_store.h"
#include "tests/kvstore/store_rig.h"

namespace tailor {
namespace {

using Code = absl::StatusCode;

// Equal to `history` up to `at`, different there and after.
std::vector<TokenId> DifferentFrom(std::vector<TokenId> history, int64_t at) {
  for (size_t i = static_cast<size_t>(at); i < history.size(); ++i) history[i] += 5000;
  return history;
}

// --- names and lives -----------------------------------------------------------------------------

TEST(PageStoreSequences, NamesOutOfRangeAreRefused) {
  StoreRig rig;
  const std::vector<TokenId> history = KnownTokens(1, 10);
  const std::string longest(256, 'x'), longer(257, 'x');
  const HeldSequence held = rig.Open({.tenant = longest, .name = longest}, history).value();
  for (const SequenceKey& key :
       {SequenceKey{"t", ""}, SequenceKey{"t", longer}, SequenceKey{longer, "a"}}) {
    EXPECT_EQ(rig.Open(key, history).status().code(), Code::kInvalidArgument);
    EXPECT_EQ(rig.store->ForkSequence(rig.lease, held.handle, key).status().code(),
              Code::kInvalidArgument);
  }
}

TEST(PageStoreSequences, WhatIsNotKeptIsNotFound) {
  StoreRig rig;
  EXPECT_EQ(rig.Open({.tenant = "t", .name = "a"}, {}).status().code(), Code::kNotFound);
  EXPECT_EQ(rig.store->RemoveSequence(rig.lease, {.tenant = "t", .name = "a"}).code(),
            Code::kNotFound);
}

TEST(PageStoreSequences, AnAttachedSequenceIsNeitherHandedOutNorRemoved) {
  StoreRig rig;
  const SequenceKey key{.tenant = "t", .name = "a"};
  const HeldSequence held = rig.Written("a", KnownTokens(1, 200));
  EXPECT_EQ(rig.Open(key, {}).status().code(), Code::kAlreadyExists);
  EXPECT_EQ(rig.store->RemoveSequence(rig.lease, key).code(), Code::kFailedPrecondition);
  ASSERT_TRUE(rig.Detach(held).ok());
  EXPECT_EQ(rig.store->RemoveSequence(rig.lease, {.tenant = "u", .name = "a"}).code(),
            Code::kNotFound)
      << "another tenant's name";
  EXPECT_TRUE(rig.store->RemoveSequence(rig.lease, key).ok());
  EXPECT_EQ(rig.store->Stats().pages_free, 16);
}

TEST(PageStoreSequences, EveryLifeHasItsOwnGenerationAndTheOldOnesAreRefused) {
  StoreRig rig;
  const std::vector<TokenId> history = KnownTokens(1, 300);
  std::vector<HeldSequence> lives = {rig.Written("a", history)};
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(rig.Detach(lives.back()).ok());
    lives.push_back(
        rig.Open({.tenant = "t", .name = "a"}, i == 1 ? DifferentFrom(history, 130) : history)
            .value());
  }
  for (size_t i = 0; i + 1 < lives.size(); ++i) {
    lives[i].sealed = lives.back().sealed;
    EXPECT_EQ(rig.Select(lives[i]).status().code(), Code::kFailedPrecondition) << "life " << i;
  }
  EXPECT_TRUE(rig.Select(lives.back()).ok());
}

TEST(PageStoreSequences, ASecondCloseIsRefusedAndCounted) {
  StoreRig rig;
  const HeldSequence held = rig.Written("a", KnownTokens(1, 200));
  ASSERT_TRUE(rig.Close(held).ok());
  EXPECT_EQ(rig.Close(held).code(), Code::kFailedPrecondition);
  EXPECT_EQ(rig.Detach(held).code(), Code::kFailedPrecondition);
  EXPECT_EQ(rig.store->Stats().stale_refusals, 2);
  EXPECT_EQ(rig.store->Stats().pages_free, 16);
}

TEST(PageStoreSequences, ADifferenceCutsBackToTheLastSealedPageBeforeIt) {
  const std::vector<TokenId> history = KnownTokens(1, 3 * kPageTokens + 50);
  struct Case {
    int64_t differs_at, committed;
  };
  for (const Case& c :
       {Case{0, 0}, Case{1, 0}, Case{127, 0}, Case{128, 128}, Case{200, 128}, Case{255, 128},
        Case{256, 256}, Case{383, 256}, Case{384, 384}, Case{433, 384}}) {
    StoreRig rig;
    ASSERT_TRUE(rig.Detach(rig.Written("a", history)).ok());
    const auto wanted = DifferentFrom(history, c.differs_at);
    const HeldSequence cut = rig.Open({.tenant = "t", .name = "a"}, wanted).value();
    EXPECT_EQ(cut.committed, c.committed) << "differs at " << c.differs_at;
    EXPECT_EQ(cut.sealed * kPageTokens, c.committed);
    EXPECT_EQ(rig.store->Stats().pages_free, 16 - cut.sealed);
  }
}

// Within the open pages a shorter history keeps its own rows: the worker was ahead of who asks.
TEST(PageStoreSequences, AShorterHistoryCutsBackAndALongerOneKeepsAll) {
  const std::vector<TokenId> history = KnownTokens(1, 3 * kPageTokens + 50);
  for (const auto& [wanted, committed] : std::vector<std::pair<int64_t, int64_t>>{{1, 0},
                                                                                  {130, 128},
                                                                                  {256, 256},
                                                                                  {384, 384},
                                                                                  {385, 385},
                                                                                  {433, 433},
                                                                                  {434, 434},
                                                                                  {1000, 434}}) {
    StoreRig rig;
    ASSERT_TRUE(rig.Detach(rig.Written("a", history)).ok());
    EXPECT_EQ(rig.Open({.tenant = "t", .name = "a"}, KnownTokens(1, wanted))->committed, committed)
        << "history of " << wanted;
  }
}

// The pages cut off had outliers in one channel: kept in kmax, they would decide the channels.
TEST(PageStoreSequences, ASequenceThatWasCutBackSelectsAmongWhatIsLeft) {
  StoreRig rig, untouched;
  const std::vector<TokenId> history = KnownTokens(1, 4 * kPageTokens);
  HeldSequence whole = rig.Open({.tenant = "t", .name = "a"}, history).value();
  ASSERT_TRUE(rig.Write(whole, history, 1).ok());
  for (int channel = 8; channel < 16; ++channel) {
    for (int head = 0; head < 2; ++head) {
      rig.view.Rows(1, head, whole.pages[3])[channel] = ToBFloat16(1e6f);
    }
  }
  ASSERT_TRUE(rig.Seal(whole, 4).ok());
  ASSERT_TRUE(rig.Detach(whole).ok());
  const HeldSequence cut =
      rig.Open({.tenant = "t", .name = "a"}, DifferentFrom(history, 300)).value();
  const HeldSequence never_longer = untouched.Written("a", KnownTokens(1, 2 * kPageTokens));
  ASSERT_EQ(cut.sealed, 2);
  const Selection got = rig.Select(cut).value(), want = untouched.Select(never_longer).value();
  EXPECT_EQ(got.tokens, want.tokens);
  EXPECT_TRUE(got.rows == want.rows);
}

// --- prefixes ------------------------------------------------------------------------------------

TEST(PageStorePrefixes, ANewSequenceStartsFromTheLongestSealedPrefixButNeverAllOfItsHistory) {
  StoreRig rig(32);
  const std::vector<TokenId> history = KnownTokens(1, 4 * kPageTokens);
  const HeldSequence first = rig.Written("first", history);
  int name = 0;
  for (const auto& [wanted, shared] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 0}, {128, 0}, {129, 1}, {512, 3}, {513, 4}, {900, 4}}) {
    const HeldSequence next =
        rig.Open({.tenant = "t", .name = std::to_string(name++)}, KnownTokens(1, wanted)).value();
    EXPECT_EQ(next.sealed, shared) << "history of " << wanted;
    EXPECT_EQ(next.committed, shared * kPageTokens);
    EXPECT_TRUE(next.exact);
    EXPECT_TRUE(std::equal(next.pages.begin(), next.pages.end(), first.pages.begin()));
  }
  const HeldSequence apart =
      rig.Open({.tenant = "t", .name = "apart"}, DifferentFrom(history, 255)).value();
  EXPECT_EQ(apart.sealed, 1);
}

TEST(PageStorePrefixes, OpenPagesAreNotShared) {
  StoreRig rig;
  const std::vector<TokenId> history = KnownTokens(1, 300);
  HeldSequence first = rig.Open({.tenant = "t", .name = "a"}, history).value();
  ASSERT_TRUE(rig.Write(first, history, 1).ok());
  EXPECT_EQ(rig.Open({.tenant = "t", .name = "b"}, history)->sealed, 0);
  ASSERT_TRUE(rig.Seal(first, 1).ok());
  EXPECT_EQ(rig.Open({.tenant = "t", .name = "c"}, history)->sealed, 1);
}

TEST(PageStorePrefixes, NobodyGetsAnotherTenantsPages) {
  StoreRig rig;
  const std::vector<TokenId> history = KnownTokens(1, 300);
  const HeldSequence mine = rig.Written("a", history);
  EXPECT_EQ(rig.Open({.tenant = "u", .name = "a"}, history)->sealed, 0);
  EXPECT_EQ(rig.Open({.tenant = "", .name = "a"}, history)->sealed, 0);
  const auto fork =
      rig.store->ForkSequence(rig.lease, mine.handle, {.tenant = "u", .name = "fork"});
  EXPECT_EQ(fork.status().code(), Code::kPermissionDenied) << fork.status();
  EXPECT_EQ(rig.store->Stats().pages_shared, 0);
}

TEST(PageStorePrefixes, PagesAfterADecodedOneAreNotSharedWhateverTheirOrigin) {
  StoreRig rig;
  const std::vector<TokenId> history = KnownTokens(1, 3 * kPageTokens);
  HeldSequence first = rig.Open({.tenant = "t", .name = "a"}, history).value();
  ASSERT_TRUE(rig.Write(first, history, 1).ok());
  ASSERT_TRUE(rig.Seal(first, 1, PageOrigin::kExactPrefill).ok());
  ASSERT_TRUE(rig.Seal(first, 1, PageOrigin::kDecoded).ok());
  ASSERT_TRUE(rig.Seal(first, 1, PageOrigin::kExactPrefill).ok());
  EXPECT_EQ(rig.Open({.tenant = "t", .name = "b"}, KnownTokens(1, 500))->sealed, 1);
  ASSERT_TRUE(rig.Detach(first).ok());
  EXPECT_FALSE(rig.Open({.tenant = "t", .name = "a"}, {})->exact);
}

TEST(PageStorePrefixes, ADamagedPageIsNotSharedOnceItWasFound) {
  StoreRig rig;
  const std::vector<TokenId> history = KnownTokens(1, 3 * kPageTokens);
  const HeldSequence first = rig.Written("a", history);
  rig.view.Rows(0, 0, first.pages[1])->bits ^= 1;
  ASSERT_EQ(rig.store->VerifyPages(rig.lease, first.handle, 0, 3).code(), Code::kDataLoss);
  EXPECT_EQ(rig.Open({.tenant = "t", .name = "b"}, KnownTokens(1, 500))->sealed, 1);
  const HeldSequence again = rig.Written("c", KnownTokens(1, 500));
  EXPECT_EQ(rig.Open({.tenant = "t", .name = "d"}, KnownTokens(1, 500))->pages.size(), 3u)
      << "recomputed pages take its place";
  EXPECT_NE(again.pages[1], first.pages[1]);
}

// --- what is exact -------------------------------------------------------------------------------

// A worker takes `exact` for the origin of all committed rows, and seals open pages by it.
TEST(PageStoreExactness, RowsInOpenPagesAreOfUnknownOriginInTheNextLife) {
  StoreRig rig;
  HeldSequence held = rig.Written("a", KnownTokens(1, kPageTokens));
  ASSERT_TRUE(rig.Write(held, KnownTokens(1, kPageTokens + 40), 9).ok());  // decoded
  ASSERT_TRUE(rig.Detach(held).ok());
  held = rig.Open({.tenant = "t", .name = "a"}, {}).value();
  EXPECT_EQ(held.committed, kPageTokens + 40);
  EXPECT_FALSE(held.exact);
  const auto fork = rig.store->ForkSequence(rig.lease, held.handle, {.tenant = "t", .name = "b"});
  EXPECT_FALSE(fork->grant.exact);
}

TEST(PageStoreExactness, SealedExactPagesAloneAreExactInTheNextLife) {
  StoreRig rig;
  ASSERT_TRUE(rig.Detach(rig.Written("a", KnownTokens(1, 2 * kPageTokens))).ok());
  EXPECT_TRUE(rig.Open({.tenant = "t", .name = "a"}, {})->exact);
}

TEST(PageStoreExactness, ASequenceCutBackBeforeItsDecodedPagesIsExactAgain) {
  StoreRig rig;
  const std::vector<TokenId> history = KnownTokens(1, 3 * kPageTokens);
  HeldSequence held = rig.Open({.tenant = "t", .name = "a"}, history).value();
  ASSERT_TRUE(rig.Write(held, history, 1).ok());
  ASSERT_TRUE(rig.Seal(held, 2, PageOrigin::kExactPrefill).ok());
  ASSERT_TRUE(rig.Seal(held, 1, PageOrigin::kDecoded).ok());
  ASSERT_TRUE(rig.Detach(held).ok());
  const std::vector<TokenId> other = DifferentFrom(history, 2 * kPageTokens);
  held = rig.Open({.tenant = "t", .name = "a"}, other).value();
  EXPECT_EQ(held.sealed, 2);
  EXPECT_TRUE(held.exact);
  ASSERT_TRUE(rig.Write(held, other, 2).ok());
  ASSERT_TRUE(rig.Seal(held, 1, PageOrigin::kExactPrefill).ok());
  auto longer = other;
  longer.push_back(1);
  EXPECT_EQ(rig.Open({.tenant = "t", .name = "b"}, longer)->sealed, 3);
}

// --- forks ---------------------------------------------------------------------------------------

TEST(PageStoreForks, AForkSharesSealedPagesAndCopiesOpenOnesUpToTheCommit) {
  StoreRig rig;
  HeldSequence parent = rig.Written("a", KnownTokens(1, 2 * kPageTokens + 30));
  WriteToken(rig.view, parent.pages[2], 2 * kPageTokens + 30, 77, 1);  // not committed
  const HeldSequence child = HeldOf(
      rig.store->ForkSequence(rig.lease, parent.handle, {.tenant = "t", .name = "b"}).value());
  ASSERT_EQ(child.pages.size(), 3u);
  EXPECT_EQ(child.pages[0], parent.pages[0]);
  EXPECT_EQ(child.pages[1], parent.pages[1]);
  ASSERT_NE(child.pages[2], parent.pages[2]);
  const auto row = [&](PageId page, int64_t t) {
    return std::vector<BFloat16>(rig.view.Rows(2, 1, page) + t * 32,
                                 rig.view.Rows(2, 1, page) + (t + 1) * 32);
  };
  EXPECT_EQ(row(child.pages[2], 29), row(parent.pages[2], 29));
  EXPECT_EQ(row(child.pages[2], 30), std::vector<BFloat16>(32)) << "not committed, not copied";
  EXPECT_EQ(rig.view.Tokens(child.pages[2])[29], rig.view.Tokens(parent.pages[2])[29]);
  EXPECT_EQ(rig.view.Tokens(child.pages[2])[30], 0);
}

TEST(PageStoreForks, AForkOntoANameThatIsKeptIsRefused) {
  StoreRig rig;
  const HeldSequence parent = rig.Written("a", KnownTokens(1, 200));
  const auto fork = rig.store->ForkSequence(rig.lease, parent.handle, {.tenant = "t", .name = "a"});
  EXPECT_EQ(fork.status().code(), Code::kAlreadyExists);
}

TEST(PageStoreForks, AForkThatFindsNoPageForItsCopyIsRefusedAndTakesNothing) {
  StoreRig rig(2);
  const HeldSequence parent = rig.Written("a", KnownTokens(1, 200));
  const auto fork = rig.store->ForkSequence(rig.lease, parent.handle, {.tenant = "t", .name = "b"});
  EXPECT_EQ(fork.status().code(), Code::kResourceExhausted);
  EXPECT_EQ(fork.status().message(), "pages: 1 asked, 0 free of 2");
  EXPECT_EQ(rig.store->Stats().sequences_attached, 1);
}

}  // namespace
}  // namespace tailor
