// Both ways to fetch, over the same sealed pages: the worker's own threads, and the store's.
#include "worker/cache/fetcher.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/worker/cache/cache_rig.h"
#include "worker/cache/device_fetcher.h"

namespace tailor {
namespace {

// An answer, out of memory that the next post may overwrite.
struct Fetched {
  int32_t count = 0;
  std::vector<int32_t> tokens;
  std::vector<BFloat16> rows;
  friend bool operator==(const Fetched&, const Fetched&) = default;
};

absl::StatusOr<Fetched> Take(RowFetcher& fetcher, int32_t layer) {
  TS_ASSIGN_OR_RETURN(const SelectedRows selected, fetcher.Take(layer));
  return Fetched{selected.count,
                 {selected.tokens.begin(), selected.tokens.end()},
                 {selected.rows.begin(), selected.rows.end()}};
}

class FetcherTest : public ::testing::Test {
 protected:
  static constexpr int64_t kPages = 4;
  explicit FetcherTest(int threads = 3) : rig_(TestPolicy(), 0, threads) {
    for (int64_t pages = 1; pages <= kPages; ++pages) {
      sequences_.push_back(
          *WriteSequence(*rig_.client, rig_.pool, absl::StrCat(pages), pages * kPageTokens, 1));
    }
  }
  // Of the sequence of so many pages, all sealed.
  SealedPages Sealed(int64_t pages = kPages) const {
    const WrittenSequence& sequence = sequences_[pages - 1];
    return {.pool = &rig_.pool, .pages = sequence.pages, .sequence = sequence.handle};
  }
  std::vector<std::unique_ptr<RowFetcher>> Both(const SelectParams& params) {
    std::vector<std::unique_ptr<RowFetcher>> both;
    both.push_back(MakeInlineFetcher(rig_.ops.get(), rig_.pool.shape(), params));
    both.push_back(MakeStoreFetcher(rig_.client.get(), params));
    return both;
  }
  static absl::StatusOr<Fetched> PostAndTake(RowFetcher& fetcher, int32_t layer,
                                             const SealedPages& sealed, const HostMatrix& q) {
    TS_RETURN_IF_ERROR(fetcher.Post(layer, sealed, q.row(0)));
    return Take(fetcher, layer);
  }

  CacheRig rig_;
  std::vector<WrittenSequence> sequences_;  // of 1, 2, ... kPages pages
};

TEST_F(FetcherTest, InlineAndStoreFetchTheSameRowsForEveryQueryLayerAndLength) {
  for (const SelectParams& params :
       {SelectParams{8, 1, 8}, SelectParams{8, 32, 8}, SelectParams{24, 128, 8},
        SelectParams{8, 4096, 8}, SelectParams{8, 32, 8, GroupRule::kHeads, 0},
        SelectParams{8, 32, 8, GroupRule::kMean, 0}, SelectParams{8, 32, 8, GroupRule::kMean, 7}}) {
    const auto both = Both(params);
    for (int64_t pages = 1; pages <= kPages; ++pages) {
      for (const int32_t layer : {1, 2}) {
        const HostMatrix q = TestQuery(static_cast<uint64_t>(10 * pages + layer));
        const auto ours = PostAndTake(*both[0], layer, Sealed(pages), q);
        const auto stores = PostAndTake(*both[1], layer, Sealed(pages), q);
        ASSERT_TRUE(ours.ok()) << ours.status();
        ASSERT_TRUE(stores.ok()) << stores.status();
        EXPECT_EQ(*ours, *stores) << "top_k " << params.top_k << ", pages " << pages;
      }
    }
  }
}

TEST_F(FetcherTest, EachLayerFetchesItsOwnNumberOfRows) {
  const SelectParams params = {8, 32, 8};
  std::vector<std::unique_ptr<RowFetcher>> both;
  both.push_back(MakeInlineFetcher(rig_.ops.get(), rig_.pool.shape(), params, {128, 5, 17}));
  both.push_back(MakeStoreFetcher(rig_.client.get(), params, {128, 5, 17}));
  for (const auto& fetcher : both) {
    for (const int32_t layer : {1, 2}) {
      const auto got = PostAndTake(*fetcher, layer, Sealed(2), TestQuery());
      ASSERT_TRUE(got.ok()) << got.status();
      EXPECT_EQ(got->count, layer == 1 ? 5 : 17);
    }
  }
}

TEST_F(FetcherTest, FetchedRowsAreTheRowsOfTheirTokensAndNeverOfTheSink) {
  for (const int32_t sink : {0, 8, 128}) {
    for (const auto& fetcher : Both({.channels = 8, .top_k = 32, .sink_tokens = sink})) {
      const auto got = PostAndTake(*fetcher, 1, Sealed(2), TestQuery());
      ASSERT_TRUE(got.ok()) << got.status();
      ASSERT_EQ(got->count, 32);
      for (int32_t head = 0; head < kHeads; ++head) {
        const std::vector<int32_t> tokens(got->tokens.begin() + head * 32,
                                          got->tokens.begin() + (head + 1) * 32);
        EXPECT_TRUE(std::is_sorted(tokens.begin(), tokens.end()));
        EXPECT_EQ(std::adjacent_find(tokens.begin(), tokens.end()), tokens.end()) << "none twice";
        EXPECT_GE(tokens.front(), sink);
        EXPECT_LT(tokens.back(), 2 * kPageTokens);
        const auto want = KnownRows(1, head, std::vector<int64_t>(tokens.begin(), tokens.end()));
        EXPECT_TRUE(std::equal(want.begin(), want.end(),
                               got->rows.begin() + int64_t{head} * 32 * kRowElements));
      }
    }
  }
}

TEST_F(FetcherTest, MoreThanThereIsGivesEveryCandidate) {
  for (const auto& fetcher : Both({.channels = 8, .top_k = 4096, .sink_tokens = 8})) {
    const auto got = PostAndTake(*fetcher, 2, Sealed(3), TestQuery());
    ASSERT_TRUE(got.ok()) << got.status();
    ASSERT_EQ(got->count, 3 * kPageTokens - 8);
    for (int32_t i = 0; i < got->count; ++i) EXPECT_EQ(got->tokens[i], 8 + i);
  }
}

TEST_F(FetcherTest, ASinkThatFillsTheSealedPagesLeavesNothingToFetch) {
  for (const auto& fetcher : Both({.channels = 8, .top_k = 32, .sink_tokens = 128})) {
    const auto got = PostAndTake(*fetcher, 1, Sealed(1), TestQuery());
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(got->count, 0);
  }
}

TEST_F(FetcherTest, ASelectorThatNeedsADeviceIsInlineOnACpu) {
  for (const Selector selector : {Selector::kInline, Selector::kSketch, Selector::kDevice}) {
    EXPECT_EQ(RunnableSelector(selector, *rig_.ops), Selector::kInline);
  }
  EXPECT_EQ(RunnableSelector(Selector::kStore, *rig_.ops), Selector::kStore);
}

// query = predicted: a layer's selection is posted while the one before it is still to be taken.
TEST_F(FetcherTest, ALayerPostedAheadGivesWhatItGivesAlone) {
  const HostMatrix q1 = TestQuery(1), q2 = TestQuery(2), q3 = TestQuery(3);
  for (const auto& fetcher : Both({.channels = 8, .top_k = 32, .sink_tokens = 8})) {
    const auto alone1 = *PostAndTake(*fetcher, 1, Sealed(), q1);
    const auto alone2 = *PostAndTake(*fetcher, 2, Sealed(), q2);
    const auto alone3 = *PostAndTake(*fetcher, 1, Sealed(), q3);
    ASSERT_NE(alone1, alone3);
    ASSERT_TRUE(fetcher->Post(1, Sealed(), q1.row(0)).ok());
    ASSERT_TRUE(fetcher->Post(2, Sealed(), q2.row(0)).ok());
    EXPECT_EQ(*Take(*fetcher, 1), alone1);
    ASSERT_TRUE(fetcher->Post(1, Sealed(), q3.row(0)).ok());
    EXPECT_EQ(*Take(*fetcher, 2), alone2);
    EXPECT_EQ(*Take(*fetcher, 1), alone3);
  }
}

// The layer attends to what it took while the next selection is on its way.
TEST_F(FetcherTest, TakenRowsStayWhileTheNextLayerIsPosted) {
  for (const auto& fetcher : Both({.channels = 8, .top_k = 32, .sink_tokens = 8})) {
    const auto want = *PostAndTake(*fetcher, 1, Sealed(), TestQuery(1));
    ASSERT_TRUE(fetcher->Post(1, Sealed(), TestQuery(1).row(0)).ok());
    const SelectedRows taken = *fetcher->Take(1);
    ASSERT_TRUE(fetcher->Post(2, Sealed(), TestQuery(2).row(0)).ok());
    EXPECT_TRUE(std::equal(want.rows.begin(), want.rows.end(), taken.rows.begin()));
    EXPECT_TRUE(std::equal(want.tokens.begin(), want.tokens.end(), taken.tokens.begin()));
    ASSERT_TRUE(fetcher->Take(2).ok());
  }
}

TEST_F(FetcherTest, TheSameQueryFetchesTheSameRowsAtAnyThreadCount) {
  const SelectParams params = {.channels = 8, .top_k = 64, .sink_tokens = 8};
  const auto want =
      PostAndTake(*MakeStoreFetcher(rig_.client.get(), params), 1, Sealed(), TestQuery());
  for (const int threads : {1, 2, 3}) {
    const auto ops = *MakeCpuBackend({.threads = threads});
    const auto fetcher = MakeInlineFetcher(ops.get(), rig_.pool.shape(), params);
    EXPECT_EQ(*PostAndTake(*fetcher, 1, Sealed(), TestQuery()), *want) << threads;
  }
}

TEST_F(FetcherTest, ARowThatFailsItsCheckIsDataLossAndIsNotServed) {
  rig_.pool.Rows(1, 1, sequences_[kPages - 1].pages[2])[17 * kRowElements].bits ^= 1;
  for (const auto& fetcher : Both({.channels = 8, .top_k = 4096, .sink_tokens = 8})) {
    EXPECT_EQ(PostAndTake(*fetcher, 1, Sealed(), TestQuery()).status().code(),
              absl::StatusCode::kDataLoss);
    EXPECT_TRUE(PostAndTake(*fetcher, 1, Sealed(2), TestQuery()).ok())
        << "other sequences still are";
  }
}

// One thread: the process is forked.
class FetcherDeathTest : public FetcherTest {
 protected:
  FetcherDeathTest() : FetcherTest(1) {}
};

TEST_F(FetcherDeathTest, AThirdPostBeforeATakeAborts) {
  for (const auto& fetcher : Both({.channels = 8, .top_k = 32, .sink_tokens = 8})) {
    ASSERT_TRUE(fetcher->Post(1, Sealed(), TestQuery().row(0)).ok());
    ASSERT_TRUE(fetcher->Post(2, Sealed(), TestQuery().row(0)).ok());
    EXPECT_DEATH((void)fetcher->Post(1, Sealed(), TestQuery().row(0)), "check failed");
    ASSERT_TRUE(Take(*fetcher, 1).ok());
    ASSERT_TRUE(Take(*fetcher, 2).ok());
  }
}

TEST_F(FetcherDeathTest, TakingAnotherLayerThanTheOldestPostAborts) {
  for (const auto& fetcher : Both({.channels = 8, .top_k = 32, .sink_tokens = 8})) {
    EXPECT_DEATH((void)fetcher->Take(1), "check failed");
    ASSERT_TRUE(fetcher->Post(1, Sealed(), TestQuery().row(0)).ok());
    EXPECT_DEATH((void)fetcher->Take(2), "check failed");
    ASSERT_TRUE(Take(*fetcher, 1).ok());
  }
}

}  // namespace
}  // namespace tailor
