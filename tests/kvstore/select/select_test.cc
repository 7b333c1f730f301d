// Selection from query to rows, against ALGORITHM §3.3-3.4 computed from the rows themselves. Runs
// once per SIMD level (see CMakeLists.txt): all must equal the same oracles, bit for bit.
#include "kvstore/select/select.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "tests/kvstore/select/select_oracle.h"

namespace tailor {
namespace {

// Small integers, so that every sum over channels is exact in fp32, and many scores are equal.
void FillExactly(SealedPages& pages, uint64_t seed, int distinct) {
  std::mt19937_64 random(seed);
  pages.Fill([&](int32_t, int32_t, int32_t, int32_t) {
    return static_cast<float>(random() % static_cast<uint64_t>(distinct)) - 2.0f;
  });
}

std::vector<float> IntegerQuery(const Heads& heads, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<float> q(heads.kv_heads * heads.group * heads.head_dim);
  // Multiples of 3 and 5: the mean of a group is an integer.
  for (float& value : q) value = 15.0f * static_cast<float>(static_cast<int>(random() % 5) - 2);
  return q;
}

// All candidates get the second look, so that channels and codes decide nothing.
TEST(Select, WithEveryCandidateRescoredIsTheTrueTopKOfTheMeanTiesIncluded) {
  for (const Heads& heads : kHeads) {
    for (const int64_t page_count : {1, 3, 5}) {
      for (const int distinct : {254, 2}) {
        SealedPages pages(heads, page_count);
        FillExactly(pages, 41 + distinct, distinct);
        const std::vector<float> q = IntegerQuery(heads, 42);
        for (SelectParams params : {Published(8, 128, 8), Published(12, 1, 0),
                                    Published(1, 33, 128), Published(heads.head_dim, 4096, 5)}) {
          params.rescore_extra = kMaxTopK;
          Selection got;
          SelectScratch scratch;
          const SelectInput input = Input(pages, 2, q, params);
          Select(input, scratch, &got);
          std::vector<int32_t> all(heads.head_dim);
          std::iota(all.begin(), all.end(), 0);
          for (int32_t head = 0; head < heads.kv_heads; ++head) {
            const auto want = Largest(
                OracleScores(pages, 2, head, Means(q, head, heads), all, params.sink_tokens),
                static_cast<size_t>(params.top_k), params.sink_tokens);
            ASSERT_EQ(TokensOf(got, head), want)
                << "head " << head << " pages " << page_count << " distinct " << distinct
                << " top_k " << params.top_k;
          }
          ASSERT_TRUE(Gather(input, &got).ok());
          ExpectRowsOfTokens(pages, 2, got);
        }
      }
    }
  }
}

TEST(Select, ByTheMeanIsTheSortOfTheIndexScoresBitForBit) {
  for (const Heads& heads : kHeads) {
    SealedPages pages(heads, 7);
    FillNormally(pages, 52);
    for (uint64_t seed = 0; seed < 5; ++seed) {
      const std::vector<float> q = NormalQuery(heads, seed);
      Selection got;
      SelectScratch scratch;
      PrepareSelection(Input(pages, 1, q, Published(9, 100, 8)), &got);
      for (int32_t head = 0; head < heads.kv_heads; ++head) {
        SelectHead(Input(pages, 1, q, Published(9, 100, 8)), head, scratch, &got);
        const std::vector<double> mean = Means(q, head, heads);
        for (size_t c = 0; c < mean.size(); ++c) EXPECT_NEAR(scratch.queries[c], mean[c], 1e-6);
        EXPECT_EQ(
            scratch.channels,
            OracleChannels(pages, 1, head, {scratch.queries.begin(), scratch.queries.end()}, 9));
        const auto scores = IndexScores(pages, 0, head, scratch.queries, scratch.channels);
        ASSERT_EQ(TokensOf(got, head), Largest({scores.begin() + 8, scores.end()}, 100, 8))
            << "seed " << seed << " head " << head;
      }
    }
  }
}

// A code is off by scale / 2 at most and a weight by unit / 2, the one times |q_mean[c]|, the other
// times a code of at most 15; 1 % more covers the roundings, some 2^-13 of it. What is chosen is
// within twice that of what is not.
TEST(Select, OfAnyKeysIsNearTheOracleByTheBoundOfTheIndex) {
  for (const Heads& heads : kHeads) {
    SealedPages pages(heads, 5);
    FillNormally(pages, 61);
    const std::vector<float> q = NormalQuery(heads, 62);
    Selection got;
    SelectScratch scratch;
    for (int32_t head = 0; head < heads.kv_heads; ++head) {
      PrepareSelection(Input(pages, 1, q, Published(8, 64, 8)), &got);
      SelectHead(Input(pages, 1, q, Published(8, 64, 8)), head, scratch, &got);
      const std::vector<double> mean = Means(q, head, heads);
      const auto scores = OracleScores(pages, 1, head, mean, scratch.channels, 8);
      double bound = 0;
      for (const PageId page : pages.page_list) {
        double of_page = 0, largest = 0;
        for (const int32_t c : scratch.channels) {
          const double weight = std::abs(mean[c]) * pages.view.IndexScale(0, head, page)[c];
          of_page += 0.505 * weight;
          largest = std::max(largest, weight);
        }
        bound = std::max(bound, of_page + 0.505 * 8 * kMaxCode * largest / WeightLimit(8));
      }
      const std::vector<int32_t> chosen = TokensOf(got, head);
      double least_in = 1e30, most_out = -1e30;
      for (int32_t t = 8; t < pages.tokens(); ++t) {
        const bool in = std::binary_search(chosen.begin(), chosen.end(), t);
        if (in) least_in = std::min(least_in, scores[t - 8]);
        if (!in) most_out = std::max(most_out, scores[t - 8]);
      }
      EXPECT_GE(least_in + 2 * bound, most_out) << "head " << head;
    }
  }
}

// Keys that would win everywhere sit on the sink, and the query loves them.
TEST(Select, ResidentTokensAreNeverCandidates) {
  SealedPages pages(kHeads[0], 3);
  pages.Fill([](int32_t, int32_t, int32_t t, int32_t) { return t < 20 ? 100.0f : 1.0f; });
  const std::vector<float> q(3 * 3 * 64, 1.0f);
  for (const int32_t sink : {0, 1, 8, 20, 127, 128}) {
    Selection got;
    SelectScratch scratch;
    Select(Input(pages, 1, q, Published(8, 30, sink)), scratch, &got);
    ASSERT_EQ(got.count, 30);
    for (int32_t head = 0; head < 3; ++head) {
      const std::vector<int32_t> tokens = TokensOf(got, head);
      EXPECT_GE(tokens.front(), sink);
      for (int32_t t = sink; t < 20; ++t) {
        EXPECT_EQ(tokens[t - sink], t) << "sink " << sink << ": the next best are taken";
      }
    }
  }
}

TEST(Select, WithoutCandidatesIsEmptyAndWithFewIsAllOfThem) {
  SealedPages pages(kHeads[0], 1);
  FillNormally(pages, 71);
  const std::vector<float> q = NormalQuery(kHeads[0], 72);
  SelectScratch scratch;
  Selection got;
  const SelectInput all_sink = Input(pages, 1, q, {8, 30, 128});
  Select(all_sink, scratch, &got);
  EXPECT_EQ(got.count, 0);
  EXPECT_TRUE(got.tokens.empty() && got.rows.empty());
  EXPECT_TRUE(Gather(all_sink, &got).ok());
  RunningKmax nothing(pages.view.shape());
  SelectInput no_pages = all_sink;
  no_pages.sealed_pages = {};
  no_pages.kmax = &nothing;
  Select(no_pages, scratch, &got);
  EXPECT_EQ(got.count, 0);
  Select(Input(pages, 1, q, {8, 128, 8}), scratch, &got);
  EXPECT_EQ(got.count, 120);
}

TEST(Select, AQueryOfAnyBitsGetsDistinctTokensInRange) {
  SealedPages pages(kHeads[0], 3);
  FillNormally(pages, 73);
  std::mt19937_64 random(74);
  for (int round = 0; round < 50; ++round) {
    std::vector<float> q(3 * 3 * 64);
    for (float& value : q) value = std::bit_cast<float>(static_cast<uint32_t>(random()));
    Selection got;
    SelectScratch scratch;
    Select(Input(pages, 1, q, round % 2 == 0 ? Published(8, 50, 8) : SelectParams{24, 50, 8}),
           scratch, &got);
    for (int32_t head = 0; head < 3; ++head) {
      const std::vector<int32_t> tokens = TokensOf(got, head);
      EXPECT_TRUE(std::is_sorted(tokens.begin(), tokens.end()));
      EXPECT_EQ(std::set<int32_t>(tokens.begin(), tokens.end()).size(), 50u);
      EXPECT_GE(tokens.front(), 8);
      EXPECT_LT(tokens.back(), pages.tokens());
    }
  }
}

TEST(Gather, FindsADamagedRowOnlyWhereItIsServed) {
  SealedPages pages(kHeads[0], 3);
  FillNormally(pages, 81);
  const std::vector<float> q = NormalQuery(kHeads[0], 82);
  SelectScratch scratch;
  Selection got;
  const SelectInput input = Input(pages, 2, q, {8, 40, 8});
  Select(input, scratch, &got);
  for (int32_t t = 8; t < pages.tokens(); ++t) {
    const std::vector<int32_t> chosen = TokensOf(got, 1);
    const bool served = std::binary_search(chosen.begin(), chosen.end(), t);
    uint16_t& damaged = pages.Row(2, 1, t)[t % 128].bits;
    damaged ^= 0x8000;
    const absl::Status status = Gather(input, &got);
    damaged ^= 0x8000;
    ASSERT_EQ(status.code(), served ? absl::StatusCode::kDataLoss : absl::StatusCode::kOk);
    if (served) {
      EXPECT_EQ(status.message(), "row check of layer 2 head 1 token " + std::to_string(t));
    }
  }
}

TEST(RunningKmax, ExtendedPageByPageIsTheMaximumOfAllAndStartsOverWhenCutBack) {
  SealedPages pages(kHeads[1], 5);
  FillNormally(pages, 91);
  RunningKmax running(pages.view.shape());
  const std::span<const PageId> list = pages.page_list;
  for (const size_t covered : {0u, 1u, 2u, 5u, 5u, 3u, 1u, 4u, 0u}) {
    running.Extend(pages.view, list.first(covered));
    EXPECT_EQ(running.pages_covered(), static_cast<int64_t>(covered));
    for (int32_t rank = 0; rank < 2; ++rank) {
      for (int32_t head = 0; head < 2; ++head) {
        for (int32_t c = 0; c < 128; ++c) {
          float want = 0;
          for (int32_t t = 0; t < static_cast<int32_t>(covered) * kPageTokens; ++t) {
            want = std::max(want, std::abs(pages.Key(rank + 1, head, t, c)));
          }
          ASSERT_EQ(running.Of(rank, head)[c], want) << covered << " pages, channel " << c;
        }
      }
    }
  }
}

TEST(ValidateSelectParams, NamesWhatIsOutOfRange) {
  const PoolShape shape = {3, 2, 64, {1}};
  EXPECT_TRUE(ValidateSelectParams({1, 1, 0}, shape).ok());
  EXPECT_TRUE(
      ValidateSelectParams({64, kMaxTopK, kPageTokens, GroupRule::kMean, kMaxTopK}, shape).ok());
  const auto says = [&](const SelectParams& params, const char* message) {
    EXPECT_EQ(ValidateSelectParams(params, shape), absl::InvalidArgumentError(message));
  };
  says({0, 1, 0}, "channels is 0, limit 1..64");
  says({65, 1, 0}, "channels is 65, limit 1..64");
  says({8, 0, 0}, "top_k is 0, limit 1..4096");
  says({8, 4097, 0}, "top_k is 4097, limit 1..4096");
  says({8, 1, -1}, "sink_tokens is -1, limit 0..128");
  says({8, 1, 129}, "sink_tokens is 129, limit 0..128");
  says({8, 1, 8, GroupRule::kMean, -1}, "rescore_extra is -1, limit 0..4096");
  says({8, 1, 8, GroupRule::kMean, 4097}, "rescore_extra is 4097, limit 0..4096");
  says({8, 1, 8, static_cast<GroupRule>(2), 0}, "group is 2, limit 0..1");
}

}  // namespace
}  // namespace tailor
