#include "kvstore/layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

namespace tailor {
namespace {

constexpr int64_t kMaxPoolBytes = int64_t{1} << 47;

const std::vector<PoolShape>& Shapes() {
  static const std::vector<PoolShape> shapes = {
      {1, 1, 16, {}},     {1, 1, 16, {0}},        {3, 2, 16, {1, 2}},
      {5, 3, 80, {0, 4}}, {30, 3, 64, {1, 2, 3}}, {32, 8, 128, {1, 2, 3, 4, 5, 6, 7, 8, 31}},
  };
  return shapes;
}

struct Piece {
  int64_t first, bytes;
  std::string what;
};

// Every array element a caller may address, as the layout's comment defines them.
std::vector<Piece> PiecesOf(const PoolLayout& layout) {
  const PoolShape& s = layout.shape();
  std::vector<Piece> pieces;
  for (uint32_t i = 0; i < layout.pages(); ++i) {
    const PageId p{i};
    pieces.push_back({layout.HeaderOffset(p), 64, "header"});
    pieces.push_back({layout.TokensOffset(p), kPageTokens * 4, "tokens"});
    for (int32_t head = 0; head < s.kv_heads; ++head) {
      for (int32_t layer = 0; layer < s.layers; ++layer) {
        pieces.push_back(
            {layout.RowsOffset(layer, head, p), int64_t{kPageTokens} * 2 * s.head_dim * 2, "rows"});
        pieces.push_back({layout.RowChecksOffset(layer, head, p), kPageTokens * 4, "checks"});
      }
      for (int32_t rank = 0; rank < static_cast<int32_t>(s.sparse_layers.size()); ++rank) {
        pieces.push_back(
            {layout.IndexOffset(rank, head, p), int64_t{s.head_dim} * kPageTokens / 2, "index"});
        pieces.push_back(
            {layout.IndexScaleOffset(rank, head, p), int64_t{s.head_dim} * 4, "scale"});
        pieces.push_back({layout.IndexMinOffset(rank, head, p), int64_t{s.head_dim} * 4, "min"});
        pieces.push_back({layout.KmaxOffset(rank, head, p), int64_t{s.head_dim} * 4, "kmax"});
        pieces.push_back(
            {layout.MeanRowOffset(rank, head, p), int64_t{s.head_dim} * 2 * 2, "mean row"});
      }
    }
  }
  std::sort(pieces.begin(), pieces.end(),
            [](const Piece& a, const Piece& b) { return a.first < b.first; });
  return pieces;
}

TEST(PoolLayout, NoTwoArraysOverlapAndAllLieInThePool) {
  for (const PoolShape& shape : Shapes()) {
    for (const int64_t pages : {1, 2, 7}) {
      const auto layout = PoolLayout::Make(shape, pages);
      ASSERT_TRUE(layout.ok()) << layout.status();
      int64_t end = 0, sum = 0;
      for (const Piece& piece : PiecesOf(*layout)) {
        EXPECT_GE(piece.first, end) << piece.what << " overlaps what is before it";
        end = piece.first + piece.bytes;
        sum += piece.bytes;
      }
      EXPECT_LE(end, layout->bytes());
      EXPECT_EQ(sum, layout->page_bytes() * pages) << "page_bytes counts every array";
      EXPECT_LT(layout->bytes() - sum, 9 * 4096) << "only alignment of nine arrays is lost";
    }
  }
}

TEST(PoolLayout, ArraysAreAlignedAndOneLayerAndHeadIsContiguous) {
  for (const PoolShape& shape : Shapes()) {
    const PoolLayout layout = *PoolLayout::Make(shape, 5);
    const PageId first{0}, second{1};
    EXPECT_EQ(layout.bytes() % 4096, 0);
    for (const int64_t start :
         {layout.HeaderOffset(first), layout.TokensOffset(first), layout.RowsOffset(0, 0, first),
          layout.RowChecksOffset(0, 0, first)}) {
      EXPECT_EQ(start % 4096, 0);
    }
    EXPECT_EQ(layout.RowsOffset(0, 0, second) - layout.RowsOffset(0, 0, first),
              int64_t{kPageTokens} * 2 * shape.head_dim * 2);
    if (shape.sparse_layers.empty()) continue;
    EXPECT_EQ(layout.IndexOffset(0, 0, first) % 4096, 0);
    EXPECT_EQ(layout.IndexOffset(0, 0, second) - layout.IndexOffset(0, 0, first),
              int64_t{shape.head_dim} * kPageTokens / 2);
  }
}

TEST(PoolLayout, TheRankOfALayerIsItsPlaceAmongTheSparseOnes) {
  const PoolLayout layout = *PoolLayout::Make({5, 3, 80, {0, 4}}, 1);
  const std::vector<int32_t> want = {0, -1, -1, -1, 1};
  for (int32_t layer = 0; layer < 5; ++layer) EXPECT_EQ(layout.SparseRank(layer), want[layer]);
}

TEST(PoolLayout, PagesThatFitFitAndOneMoreDoesNot) {
  for (const PoolShape& shape : Shapes()) {
    const int64_t one = PoolLayout::Make(shape, 1)->bytes();
    for (const int64_t bytes : {one, one + 1, 2 * one, 10 * one + 4095, 1000 * one - 1}) {
      const auto pages = PoolLayout::PagesThatFit(shape, bytes);
      ASSERT_TRUE(pages.ok()) << pages.status();
      ASSERT_GE(*pages, 1);
      EXPECT_LE(PoolLayout::Make(shape, *pages)->bytes(), bytes);
      EXPECT_GT(PoolLayout::Make(shape, *pages + 1)->bytes(), bytes);
    }
  }
}

TEST(PoolLayout, NoPageFitsInTooFewBytesOrNone) {
  for (const PoolShape& shape : Shapes()) {
    const int64_t one = PoolLayout::Make(shape, 1)->bytes();
    for (const int64_t bytes : {one - 1, int64_t{1}, int64_t{0}, int64_t{-1}, -10 * one,
                                std::numeric_limits<int64_t>::min()}) {
      EXPECT_EQ(PoolLayout::PagesThatFit(shape, bytes).value(), 0) << bytes;
    }
  }
}

// The count starts near the answer: from 2^31 pages down, one by one, it is 10^9 steps.
TEST(PoolLayout, MoreBytesThanAPoolMayHaveFitTheLargestPool) {
  for (const PoolShape& shape : Shapes()) {
    const int64_t pages =
        PoolLayout::PagesThatFit(shape, std::numeric_limits<int64_t>::max()).value();
    EXPECT_EQ(pages, PoolLayout::PagesThatFit(shape, kMaxPoolBytes).value());
    EXPECT_LE(PoolLayout::Make(shape, pages)->bytes(), kMaxPoolBytes);
    const auto more = PoolLayout::Make(shape, pages + 1);
    EXPECT_EQ(more.status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(PoolLayout, PageCountsThatOverflowOrPassTheLimitAreRefused) {
  const PoolShape largest = {1024, 1024, 1024, {}};
  EXPECT_TRUE(PoolLayout::Make(largest, 1).ok());
  for (const int64_t pages :
       {int64_t{0}, int64_t{-1}, (int64_t{1} << 31) + 1, std::numeric_limits<int64_t>::max(),
        std::numeric_limits<int64_t>::min()}) {
    EXPECT_EQ(PoolLayout::Make({1, 1, 16, {}}, pages).status().code(),
              absl::StatusCode::kInvalidArgument)
        << pages;
  }
  EXPECT_EQ(PoolLayout::Make(largest, int64_t{1} << 31).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(PoolShape, ShapesOutOfRangeAreRefusedByName) {
  struct Case {
    PoolShape shape;
    const char* says;
  };
  for (const Case& c : std::vector<Case>{{{0, 1, 16, {}}, "0 layers"},
                                         {{1025, 1, 16, {}}, "1025 layers, limit 1..1024"},
                                         {{1, 0, 16, {}}, "0 kv_heads"},
                                         {{1, 1025, 16, {}}, "1025 kv_heads"},
                                         {{1, 1, 0, {}}, "0 head_dim"},
                                         {{1, 1, 1040, {}}, "1040 head_dim"},
                                         {{1, 1, 24, {}}, "head_dim 24, needs a multiple of 16"},
                                         {{2, 1, 16, {2}}, "2 as a sparse layer"},
                                         {{2, 1, 16, {-1}}, "-1 as a sparse layer"},
                                         {{2, 1, 16, {1, 0}}, "not ascending"},
                                         {{2, 1, 16, {1, 1}}, "not ascending"}}) {
    const absl::Status refused = c.shape.Validate();
    EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(std::string(refused.message()).find(c.says), std::string::npos) << refused;
    EXPECT_EQ(PoolLayout::Make(c.shape, 1).status(), refused);
    EXPECT_EQ(PoolLayout::PagesThatFit(c.shape, 1 << 20).status(), refused);
  }
}

}  // namespace
}  // namespace tailor
