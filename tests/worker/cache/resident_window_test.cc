#include "worker/cache/resident_window.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "tests/worker/cache/cache_rig.h"

namespace tailor {
namespace {

// What segments hold, read back: one BFloat16 a token is enough, rows are marked with their
// position.
std::vector<int64_t> Marks(Backend& ops, std::span<const RowSegment> segments) {
  std::vector<int64_t> marks;
  for (const RowSegment& segment : segments) {
    for (int32_t t = 0; t < segment.tokens; ++t) {
      std::vector<BFloat16> row(kRowElements);
      ops.Download(segment.rows + int64_t{t} * kRowElements,
                   std::as_writable_bytes(std::span(row)));
      marks.push_back(row.front().bits | int64_t{row.back().bits} << 16);
    }
  }
  return marks;
}

std::vector<BFloat16> MarkedRow(int32_t head, int64_t position) {
  std::vector<BFloat16> row(kRowElements);
  row.front().bits = static_cast<uint16_t>(position);
  row.back().bits = static_cast<uint16_t>(head);
  return row;
}

class ResidentWindowTest : public ::testing::Test {
 protected:
  std::unique_ptr<Backend> ops_ = *MakeCpuBackend({.threads = 1});
};

// The newest `slots` pages are held, however positions come.
TEST_F(ResidentWindowTest, TheNewestPagesComeBackByPosition) {
  for (const int64_t slots : {1, 2, 3}) {
    ResidentWindow window(ops_.get(), kHeads, kHeadDim);
    ASSERT_TRUE(window.EnsureSlots(slots).ok());
    std::mt19937_64 random(slots);
    for (int64_t position = 0; position < 1000; ++position) {
      for (int32_t head = 0; head < kHeads; ++head) {
        const auto row = MarkedRow(head, position);
        ops_->Upload(std::as_bytes(std::span(row)), window.Row(head, position));
      }
      if (random() % 4 != 0) continue;
      const int64_t oldest = std::max<int64_t>(0, position / kPageTokens - slots + 1) * kPageTokens;
      const int64_t first = oldest + static_cast<int64_t>(random() % (position + 1 - oldest));
      for (int32_t head = 0; head < kHeads; ++head) {
        std::vector<RowSegment> segments;
        window.AppendSegments(head, first, position + 1, &segments);
        const auto marks = Marks(*ops_, segments);
        ASSERT_EQ(static_cast<int64_t>(marks.size()), position + 1 - first);
        for (size_t i = 0; i < marks.size(); ++i) {
          ASSERT_EQ(marks[i], (first + static_cast<int64_t>(i)) | int64_t{head} << 16)
              << "slots " << slots << ", position " << position;
        }
      }
    }
  }
}

TEST_F(ResidentWindowTest, SegmentsOfNothingAreNone) {
  ResidentWindow window(ops_.get(), kHeads, kHeadDim);
  ASSERT_TRUE(window.EnsureSlots(2).ok());
  std::vector<RowSegment> segments;
  window.AppendSegments(0, 128, 128, &segments);
  EXPECT_TRUE(segments.empty());
}

TEST_F(ResidentWindowTest, CopiesBringTheLastTokensOfEveryHeadAndLeaveTheRest) {
  CacheRig rig;
  const SequenceGrant grant = *rig.client->OpenSequence({.tenant = "t", .name = "s"}, kFirstToken);
  const auto pages = *rig.client->ReservePages(grant.handle, 3);
  for (int64_t t = 0; t < 384; ++t) WriteToken(rig.pool, pages[t / kPageTokens], t, 0, 1);
  ResidentWindow window(ops_.get(), kHeads, kHeadDim);
  ASSERT_TRUE(window.EnsureSlots(2).ok());
  CopyList copies;
  window.AddCopies({.pool = &rig.pool, .pages = pages, .tokens = 300}, 1, 130, &copies);
  ops_->Copy(copies.pieces());
  for (int32_t head = 0; head < kHeads; ++head) {
    for (int64_t t = 128; t < 384; ++t) {
      std::vector<BFloat16> got(kRowElements);
      ops_->Download(window.Row(head, t), std::as_writable_bytes(std::span(got)));
      const bool loaded = t >= 130 && t < 300;
      EXPECT_EQ(got, loaded ? KnownRow(1, head, t) : std::vector<BFloat16>(kRowElements)) << t;
    }
  }
}

TEST_F(ResidentWindowTest, MemoryIsCountedByPageRefusedBeyondTheBudgetAndReturned) {
  const int64_t page = ResidentWindow::PageBytes(kHeads, kHeadDim);
  EXPECT_EQ(page, 2 * 128 * 2 * 64 * 2);
  auto ops = *MakeCpuBackend({.threads = 1, .memory_limit_bytes = 3 * page});
  {
    ResidentWindow window(ops.get(), kHeads, kHeadDim);
    ASSERT_TRUE(window.EnsureSlots(2).ok());
    ASSERT_TRUE(window.EnsureSlots(1).ok()) << "never shrinks, never asks twice";
    EXPECT_EQ(window.bytes(), 2 * page);
    EXPECT_EQ(ops->allocated_bytes(), 2 * page);
    EXPECT_EQ(window.EnsureSlots(4).code(), absl::StatusCode::kResourceExhausted);
  }
  EXPECT_EQ(ops->allocated_bytes(), 0);
}

}  // namespace
}  // namespace tailor
