#include "worker/cache/full_cache.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/worker/cache/cache_rig.h"
#include "worker/cache/resident_window.h"

namespace tailor {
namespace {

class FullCacheTest : public ::testing::Test {
 protected:
  FullCacheTest() {
    const SequenceGrant grant =
        *rig_.client->OpenSequence({.tenant = "t", .name = "s"}, kFirstToken);
    pages_ = *rig_.client->ReservePages(grant.handle, 5);
    for (int64_t t = 0; t < 5 * kPageTokens; ++t) {
      WriteToken(rig_.pool, pages_[t / kPageTokens], t, 0, 1);
    }
  }
  PagedRows Rows(int64_t tokens, size_t pages) const {
    return {.pool = &rig_.pool,
            .pages = std::span(pages_).first(pages),
            .sealed_pages = 0,
            .tokens = tokens};
  }
  HostMatrix Attend(FullCache& cache, int64_t tokens) {
    const DeviceMatrix q(*rig_.ops, TestQuery()), out(*rig_.ops, 1, kQHeads * kHeadDim);
    cache.Attend({.q = q.view(), .tokens = tokens, .fetched = {}, .out = out.view(), .lse = {}},
                 scratch_);
    return out.Download();
  }

  CacheRig rig_;
  std::vector<PageId> pages_;
  AttendScratch scratch_;
};

TEST_F(FullCacheTest, EveryTokenIsAttendedWhetherItCameByPageOrByStep) {
  FullCache cache(rig_.ops.get(), 1, rig_.pool.shape());
  int64_t tokens = 0;
  for (const int64_t next : {1, 127, 128, 129, 200, 257, 600}) {
    if (next % 2 == 0) {
      ASSERT_TRUE(cache.Extend(Rows(next, 5)).ok());
    } else {
      ASSERT_TRUE(cache.Extend(Rows(tokens, 5)).ok());  // room, as a turn reserves it
      for (int64_t position = tokens; position < next; ++position) {
        std::vector<BFloat16*> rows(kHeads);
        cache.NewRows(position, rows);
        for (int32_t head = 0; head < kHeads; ++head) {
          const auto row = KnownRow(1, head, position);
          rig_.ops->Upload(std::as_bytes(std::span(row)), rows[head]);
        }
      }
    }
    tokens = next;
    SCOPED_TRACE(tokens);
    ExpectAttended(Attend(cache, tokens), AttendReference(TestQuery(), 1, Positions(0, tokens)));
  }
}

TEST_F(FullCacheTest, ExtendReadsOnlyWhatIsNew) {
  FullCache cache(rig_.ops.get(), 1, rig_.pool.shape());
  ASSERT_TRUE(cache.Extend(Rows(150, 2)).ok());
  const HostMatrix before = Attend(cache, 150);
  for (int32_t head = 0; head < kHeads; ++head) {
    std::fill_n(rig_.pool.Rows(1, head, pages_[1]), 22 * kRowElements, BFloat16{0x7fc0});
  }
  ASSERT_TRUE(cache.Extend(Rows(300, 3)).ok());
  EXPECT_EQ(Attend(cache, 150).values, before.values);
  ExpectAttended(Attend(cache, 300), AttendReference(TestQuery(), 1, Positions(0, 300)));
}

// What one Extend makes room for is one segment of a head: the tables of 128k tokens stay small.
TEST_F(FullCacheTest, AHeadHasASegmentForEachTimePagesWereReserved) {
  FullCache cache(rig_.ops.get(), 1, rig_.pool.shape());
  ASSERT_TRUE(cache.Extend(Rows(200, 2)).ok());
  ASSERT_TRUE(cache.Extend(Rows(200, 5)).ok());
  for (const auto& [tokens, segments] : {std::pair{200, 1}, {256, 1}, {257, 2}, {640, 2}}) {
    (void)Attend(cache, tokens);
    for (int32_t head = 0; head < kHeads; ++head) {
      EXPECT_EQ(scratch_.segments[head].size(), static_cast<size_t>(segments)) << tokens;
    }
  }
}

TEST_F(FullCacheTest, WhereMemoryHasNoHoleForAllPagesTheyComeInSmallerBlocks) {
  const int64_t page = ResidentWindow::PageBytes(kHeads, kHeadDim);
  CacheRig small(TestPolicy(), 4 * page);
  FullCache cache(small.ops.get(), 1, rig_.pool.shape());
  EXPECT_EQ(cache.Extend(Rows(0, 5)).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(cache.bytes().resident, 4 * page) << "2, 1 and 1 pages: as much as there is";
  EXPECT_TRUE(cache.Extend(Rows(512, 4)).ok());
}

TEST_F(FullCacheTest, ItHoldsThePagesThatAreReservedAndNoMore) {
  const int64_t page = ResidentWindow::PageBytes(kHeads, kHeadDim);
  {
    FullCache cache(rig_.ops.get(), 1, rig_.pool.shape());
    for (const size_t pages : {1, 2, 5}) {
      ASSERT_TRUE(cache.Extend(Rows(100, pages)).ok());
      EXPECT_EQ(cache.bytes().resident, static_cast<int64_t>(pages) * page);
      EXPECT_EQ(cache.bytes().codes, 0);
      EXPECT_EQ(rig_.ops->allocated_bytes(), static_cast<int64_t>(pages) * page);
    }
  }
  EXPECT_EQ(rig_.ops->allocated_bytes(), 0);
}

}  // namespace
}  // namespace tailor
