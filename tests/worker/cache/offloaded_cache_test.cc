#include "worker/cache/offloaded_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kvstore/page_index.h"
#include "tests/worker/cache/cache_rig.h"

namespace tailor {
namespace {

constexpr int64_t kWindowSlots = 2;

class OffloadedCacheTest : public ::testing::Test {
 protected:
  OffloadedCacheTest() {
    const SequenceGrant grant =
        *rig_.client->OpenSequence({.tenant = "t", .name = "s"}, kFirstToken);
    pages_ = *rig_.client->ReservePages(grant.handle, 6);
    for (int64_t t = 0; t < 6 * kPageTokens; ++t) {
      WriteToken(rig_.pool, pages_[t / kPageTokens], t, 0, 1);
    }
  }
  PagedRows Rows(int64_t tokens, int64_t sealed) const {
    return {.pool = &rig_.pool, .pages = pages_, .sealed_pages = sealed, .tokens = tokens};
  }
  HostMatrix Attend(OffloadedCache& cache, int64_t tokens, std::span<const int64_t> fetched) {
    std::vector<BFloat16> rows;
    for (int32_t head = 0; head < kHeads; ++head) {
      const auto chosen = KnownRows(1, head, fetched);
      rows.insert(rows.end(), chosen.begin(), chosen.end());
    }
    const DeviceMatrix q(*rig_.ops, TestQuery()), out(*rig_.ops, 1, kQHeads * kHeadDim);
    cache.Attend(
        {.q = q.view(),
         .tokens = tokens,
         .fetched = {.count = static_cast<int32_t>(fetched.size()), .tokens = {}, .rows = rows},
         .out = out.view(),
         .lse = {}},
        scratch_);
    return out.Download();
  }
  // The mean rows of the first pages, a head each.
  std::vector<std::vector<BFloat16>> Means(int64_t pages) const {
    std::vector<std::vector<BFloat16>> means(kHeads);
    for (int32_t head = 0; head < kHeads; ++head) {
      for (int64_t page = 0; page < pages; ++page) {
        const BFloat16* row = rig_.pool.MeanRow(0, head, pages_[page]);
        means[head].insert(means[head].end(), row, row + kRowElements);
      }
    }
    return means;
  }
  static std::vector<int64_t> Attendable(int64_t sink, std::span<const int64_t> fetched,
                                         int64_t sealed, int64_t tokens) {
    std::vector<int64_t> positions = Positions(0, sealed > 0 ? sink : 0);
    positions.insert(positions.end(), fetched.begin(), fetched.end());
    const auto window = Positions(sealed * kPageTokens, tokens);
    positions.insert(positions.end(), window.begin(), window.end());
    return positions;
  }

  CacheRig rig_;
  std::vector<PageId> pages_;
  AttendScratch scratch_;
};

TEST_F(OffloadedCacheTest, AttentionIsOneSoftmaxOverSinkFetchedRowsAndWindow) {
  const std::vector<int64_t> some = {9, 40, 41, 127}, none;
  for (const int32_t sink : {0, 1, 8, 128}) {
    OffloadedCache cache(rig_.ops.get(), 1, rig_.pool.shape(), sink, kWindowSlots);
    for (const auto& [tokens, sealed] :
         {std::pair{1, 0}, {129, 0}, {255, 0}, {256, 1}, {383, 1}, {384, 2}, {700, 4}}) {
      ASSERT_TRUE(cache.Extend(Rows(tokens, sealed)).ok());
      for (const auto& fetched : {none, some}) {
        if (sealed == 0 && !fetched.empty()) continue;
        SCOPED_TRACE(absl::StrCat("sink ", sink, ", ", tokens, " tokens, ", sealed, " sealed, ",
                                  fetched.size(), " fetched"));
        ExpectAttended(Attend(cache, tokens, fetched),
                       AttendReference(TestQuery(), 1, Attendable(sink, fetched, sealed, tokens)));
      }
    }
  }
}

// Pages written to the store and sealed there, so that they have mean rows.
TEST_F(OffloadedCacheTest, MeanRowsStandForWhatWasNotFetched) {
  for (const PageId page : pages_) SealPage(rig_.pool, page);
  constexpr float kGain = 0.5f;
  const std::vector<int64_t> some = {9, 40, 41, 127}, none;
  for (const int32_t sink : {0, 8}) {
    OffloadedCache cache(rig_.ops.get(), 1, rig_.pool.shape(), sink, kWindowSlots, kGain);
    for (const auto& [tokens, sealed] : {std::pair{129, 0}, {256, 1}, {384, 2}, {700, 4}}) {
      ASSERT_TRUE(cache.Extend(Rows(tokens, sealed)).ok());
      ASSERT_TRUE(cache.LoadSealed(Rows(tokens, sealed)).ok());
      for (const auto& fetched : {none, some}) {
        if (sealed == 0 && !fetched.empty()) continue;
        SCOPED_TRACE(absl::StrCat("sink ", sink, ", ", tokens, " tokens, ", sealed, " sealed, ",
                                  fetched.size(), " fetched"));
        const auto skipped = sealed * kPageTokens - sink - static_cast<int64_t>(fetched.size());
        const float log_weight =
            sealed > 0 ? kGain + std::log(static_cast<float>(skipped) / static_cast<float>(sealed))
                       : 0.0f;
        ExpectAttended(Attend(cache, tokens, fetched),
                       AttendReference(TestQuery(), 1, Attendable(sink, fetched, sealed, tokens),
                                       Means(sealed), log_weight));
      }
    }
  }
}

TEST_F(OffloadedCacheTest, WhereEveryTokenIsFetchedNothingIsEstimated) {
  for (const PageId page : pages_) SealPage(rig_.pool, page);
  OffloadedCache with(rig_.ops.get(), 1, rig_.pool.shape(), 8, kWindowSlots, 0.25f);
  OffloadedCache without(rig_.ops.get(), 1, rig_.pool.shape(), 8, kWindowSlots);
  for (OffloadedCache* cache : {&with, &without}) {
    ASSERT_TRUE(cache->Extend(Rows(300, 1)).ok());
    ASSERT_TRUE(cache->LoadSealed(Rows(300, 1)).ok());
  }
  const auto all = Positions(8, kPageTokens);
  EXPECT_EQ(Attend(with, 300, all).values, Attend(without, 300, all).values);
}

TEST_F(OffloadedCacheTest, MeanRowsTakeTheirBytesAndCopyNeighboursAndStrangersAlike) {
  const std::vector<PageId> scattered = {pages_[3], pages_[0], pages_[1], pages_[2], pages_[5]};
  for (const PageId page : pages_) SealPage(rig_.pool, page);
  MeanRows means(rig_.ops.get(), 1, kHeads, kHeadDim);
  for (const size_t count : {1, 3, 5}) {
    ASSERT_TRUE(means.Extend(rig_.pool, std::span(scattered).first(count)).ok());
    EXPECT_EQ(rig_.ops->allocated_bytes(), means.bytes());
    EXPECT_EQ(means.bytes(), MeanRows::Bytes(kHeads, kHeadDim, static_cast<int64_t>(count)));
  }
  for (int32_t head = 0; head < kHeads; ++head) {
    std::vector<RowSegment> segments;
    means.AppendSegments(head, &segments);
    ASSERT_EQ(segments.size(), 1u);
    ASSERT_EQ(segments[0].tokens, 5);
    for (size_t page = 0; page < scattered.size(); ++page) {
      const BFloat16* want = rig_.pool.MeanRow(0, head, scattered[page]);
      EXPECT_TRUE(std::equal(want, want + kRowElements, segments[0].rows + page * kRowElements))
          << page;
    }
  }
  EXPECT_GT(MeanRows::Bytes(kHeads, kHeadDim, MeanRows::kBlockPages + 1),
            MeanRows::Bytes(kHeads, kHeadDim, MeanRows::kBlockPages));
}

TEST_F(OffloadedCacheTest, SealingPageByPageEqualsExtendingAtOnceBitForBit) {
  OffloadedCache grown(rig_.ops.get(), 1, rig_.pool.shape(), 8, kWindowSlots);
  OffloadedCache loaded(rig_.ops.get(), 1, rig_.pool.shape(), 8, kWindowSlots);
  ASSERT_TRUE(grown.Extend(Rows(0, 0)).ok());
  for (int64_t t = 0; t < 600; ++t) {
    std::vector<BFloat16*> rows(kHeads);
    grown.NewRows(t, rows);
    for (int32_t head = 0; head < kHeads; ++head) {
      const auto row = KnownRow(1, head, t);
      rig_.ops->Upload(std::as_bytes(std::span(row)), rows[head]);
    }
    if ((t + 1) % kPageTokens == 0 && t >= 2 * kPageTokens - 1) {
      const int64_t page = (t + 1) / kPageTokens - 2;
      ASSERT_TRUE(grown.Seal(Rows(t + 1, page + 1), page).ok());
    }
  }
  ASSERT_TRUE(loaded.Extend(Rows(600, 3)).ok());
  const std::vector<int64_t> fetched = {100, 200};
  EXPECT_EQ(Attend(grown, 600, fetched).values, Attend(loaded, 600, fetched).values);
}

TEST_F(OffloadedCacheTest, MemoryDoesNotGrowWithTheSequenceAndComesBack) {
  const int64_t window = kWindowSlots * ResidentWindow::PageBytes(kHeads, kHeadDim);
  const int64_t sink = kHeads * 8 * kRowElements * 2;
  {
    OffloadedCache cache(rig_.ops.get(), 1, rig_.pool.shape(), 8, kWindowSlots);
    ASSERT_TRUE(cache.Extend(Rows(200, 0)).ok());
    EXPECT_EQ(cache.bytes().resident, window) << "a sink is part of the window at first";
    for (const int64_t sealed : {1, 2, 4}) {
      ASSERT_TRUE(cache.Extend(Rows((sealed + 2) * kPageTokens, sealed)).ok());
      EXPECT_EQ(cache.bytes().resident, window + sink);
      EXPECT_EQ(rig_.ops->allocated_bytes(), window + sink);
    }
  }
  EXPECT_EQ(rig_.ops->allocated_bytes(), 0);
}

}  // namespace
}  // namespace tailor
