// The query heads of a group choose together (GroupRule::kHeads), with and without a second look
// from exact keys: docs/decisions/0004-selection.md. Runs once per SIMD level.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "tests/kvstore/select/select_oracle.h"

namespace tailor {
namespace {

TEST(Select, ByHeadsIsThePlainAnswerBitForBit) {
  for (const Heads& heads : kHeads) {
    SealedPages pages(heads, 7);
    FillNormally(pages, 51);
    for (uint64_t seed = 0; seed < 5; ++seed) {
      const std::vector<float> q = NormalQuery(heads, seed);
      for (const SelectParams& params :
           {SelectParams{24, 100, 8, GroupRule::kHeads, 64},
            SelectParams{9, 33, 0, GroupRule::kHeads, 0},
            SelectParams{heads.head_dim, 128, 128, GroupRule::kHeads, 1}}) {
        Selection got;
        SelectScratch scratch;
        Select(Input(pages, 1, q, params), scratch, &got);
        const size_t group = q.size() / heads.kv_heads;
        for (int32_t head = 0; head < heads.kv_heads; ++head) {
          const auto want =
              PlainHeadsAnswer(pages, 1, head, std::span(q).subspan(head * group, group), params);
          ASSERT_EQ(TokensOf(got, head), want) << "seed " << seed << " head " << head;
          Selection one;
          PrepareSelection(Input(pages, 1, q, params), &one);
          SelectHead(Input(pages, 1, q, params), head, scratch, &one);
          ASSERT_EQ(TokensOf(one, head), want) << "a head alone";
        }
      }
    }
  }
}

// Two heads of a group with opposite queries: their mean is zero and prefers nothing, but each head
// has tokens of its own.
TEST(Select, ByHeadsFindsWhatEachHeadWantsWhereTheirMeanFindsNothing) {
  const Heads heads = {1, 2, 64};
  SealedPages pages(heads, 4);
  std::vector<int32_t> wanted;
  for (int32_t i = 0; i < 10; ++i) wanted.push_back(100 + 37 * i);
  pages.Fill([&](int32_t, int32_t, int32_t t, int32_t c) {
    const bool want = std::binary_search(wanted.begin(), wanted.end(), t);
    return want ? (t % 2 == 0 ? 4.0f : -4.0f) : static_cast<float>((t * 7 + c) % 5 - 2) / 8;
  });
  std::vector<float> q(128, 1.0f);
  std::fill(q.begin() + 64, q.end(), -1.0f);
  Selection got;
  SelectScratch scratch;
  Select(Input(pages, 1, q, {24, 10, 8, GroupRule::kHeads, 0}), scratch, &got);
  EXPECT_EQ(TokensOf(got, 0), wanted);
  Select(Input(pages, 1, q, Published(24, 10, 8)), scratch, &got);
  EXPECT_NE(TokensOf(got, 0), wanted);
}

}  // namespace
}  // namespace tailor
