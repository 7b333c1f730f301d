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

#include "tests/kvstore/select/sealed_pages.h"

namespace tailor {
namespace {

const Heads kHeads[] = {{3, 3, 64}, {2, 4, 128}, {1, 1, 64}};

std::vector<double> Means(std::span<const float> q, int32_t head, const Heads& heads) {
  std::vector<double> mean(heads.head_dim, 0.0);
  for (int32_t g = 0; g < heads.group; ++g) {
    for (int32_t c = 0; c < heads.head_dim; ++c) {
      mean[c] += double{q[(head * heads.group + g) * heads.head_dim + c]} / heads.group;
    }
  }
  return mean;
}

// Positions of the `count` largest, ascending; ties to the lower.
std::vector<int32_t> Largest(const std::vector<double>& values, size_t count, int32_t first) {
  std::vector<int32_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return values[a] > values[b]; });
  order.resize(std::min(count, order.size()));
  std::sort(order.begin(), order.end());
  for (int32_t& position : order) position += first;
  return order;
}

// §3.3 from the rows: importance[c] = |q_mean[c]| * max over stored tokens of |K[t][c]|.
std::vector<int32_t> OracleChannels(const SealedPages& pages, int32_t layer, int32_t head,
                                    const std::vector<double>& q_mean, int32_t count) {
  std::vector<double> importance(q_mean.size());
  for (int32_t c = 0; c < static_cast<int32_t>(q_mean.size()); ++c) {
    double kmax = 0;
    for (int32_t t = 0; t < pages.tokens(); ++t) {
      kmax = std::max(kmax, std::abs(double{pages.Key(layer, head, t, c)}));
    }
    importance[c] = std::abs(q_mean[c]) * kmax;
  }
  return Largest(importance, static_cast<size_t>(count), 0);
}

// §3.4 from the rows: score[t] = sum over C of q_mean[c] * K[t][c], for tokens from `sink` on.
std::vector<double> OracleScores(const SealedPages& pages, int32_t layer, int32_t head,
                                 const std::vector<double>& q_mean,
                                 const std::vector<int32_t>& channels, int32_t sink) {
  std::vector<double> scores;
  for (int32_t t = sink; t < pages.tokens(); ++t) {
    double score = 0;
    for (const int32_t c : channels) score += q_mean[c] * pages.Key(layer, head, t, c);
    scores.push_back(score);
  }
  return scores;
}

SelectInput Input(const SealedPages& pages, int32_t layer, std::span<const float> q,
                  const SelectParams& params) {
  return {.pool = &pages.view,
          .layer = layer,
          .sealed_pages = pages.page_list,
          .kmax = &pages.kmax,
          .q = q,
          .params = params};
}

std::vector<int32_t> TokensOf(const Selection& selection, int32_t head) {
  const auto first = selection.tokens.begin() + head * selection.count;
  return {first, first + selection.count};
}

void ExpectRowsOfTokens(const SealedPages& pages, int32_t layer, const Selection& selection) {
  const PoolShape& shape = pages.view.shape();
  const size_t row = 2 * static_cast<size_t>(shape.head_dim);
  ASSERT_EQ(selection.rows.size(), shape.kv_heads * selection.count * row);
  for (int32_t head = 0; head < shape.kv_heads; ++head) {
    for (int32_t i = 0; i < selection.count; ++i) {
      const size_t at = static_cast<size_t>(head * selection.count + i);
      ASSERT_EQ(std::memcmp(selection.rows.data() + at * row,
                            pages.Row(layer, head, selection.tokens[at]), row * 2),
                0)
          << "head " << head << " token " << selection.tokens[at];
    }
  }
}

// Keys are codes in -127..127 times a power of two, and 127 occurs in every page and channel: the
// index holds them exactly, every sum is exact in fp32, and equal scores are equal. So the answer
// is the oracle's, ties included.
void FillExactly(SealedPages& pages, uint64_t seed, int distinct) {
  std::mt19937_64 random(seed);
  pages.Fill([&](int32_t, int32_t head, int32_t t, int32_t c) {
    const int step = 254 / distinct;
    const int code = t % kPageTokens == (c * 7) % kPageTokens
                         ? 127
                         : static_cast<int>(random() % (distinct + 1)) * step - 127;
    return std::ldexp(static_cast<float>(code), -((t / kPageTokens + c + head) % 4));
  });
}

std::vector<float> IntegerQuery(const Heads& heads, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<float> q(heads.kv_heads * heads.group * heads.head_dim);
  // Multiples of 3 and 4: the mean of a group is an integer.
  for (float& value : q) value = 12.0f * static_cast<float>(static_cast<int>(random() % 5) - 2);
  return q;
}

TEST(Select, OfExactKeysIsTheOraclesAnswerTiesIncluded) {
  for (const Heads& heads : kHeads) {
    for (const int64_t page_count : {1, 3, 5}) {
      for (const int distinct : {254, 2}) {
        SealedPages pages(heads, page_count);
        FillExactly(pages, 41 + distinct, distinct);
        const std::vector<float> q = IntegerQuery(heads, 42);
        for (const SelectParams& params :
             {SelectParams{8, 128, 8}, SelectParams{12, 1, 0}, SelectParams{1, 33, 128},
              SelectParams{heads.head_dim, 4096, 5}}) {
          Selection got;
          SelectScratch scratch;
          const SelectInput input = Input(pages, 2, q, params);
          Select(input, scratch, &got);
          for (int32_t head = 0; head < heads.kv_heads; ++head) {
            const std::vector<double> mean = Means(q, head, heads);
            const auto channels = OracleChannels(pages, 2, head, mean, params.channels);
            const auto want =
                Largest(OracleScores(pages, 2, head, mean, channels, params.sink_tokens),
                        static_cast<size_t>(params.top_k), params.sink_tokens);
            ASSERT_EQ(TokensOf(got, head), want)
                << "head " << head << " pages " << page_count << " distinct " << distinct
                << " channels " << params.channels << " top_k " << params.top_k;
          }
          ASSERT_TRUE(Gather(input, &got).ok());
          ExpectRowsOfTokens(pages, 2, got);
        }
      }
    }
  }
}

void FillNormally(SealedPages& pages, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  pages.Fill([&](int32_t, int32_t, int32_t, int32_t c) {
    return normal(random) * (c % 11 == 0 ? 8.0f : 1.0f);
  });
}

std::vector<float> NormalQuery(const Heads& heads, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> q(heads.kv_heads * heads.group * heads.head_dim);
  for (float& value : q) value = normal(random);
  return q;
}

// The scores of the int8 index as score.h defines their bits: in order, each operation rounded.
std::vector<double> IndexScores(const SealedPages& pages, int32_t rank, int32_t head,
                                std::span<const float> q_mean, const std::vector<int32_t>& channels,
                                int32_t sink) {
  std::vector<double> scores;
  for (int32_t t = sink; t < pages.tokens(); ++t) {
    const PageId page = pages.page_list[t / kPageTokens];
    volatile float score = 0;  // volatile: no operation is fused or kept wider
    for (const int32_t c : channels) {
      const volatile float weight = q_mean[c] * pages.view.IndexScale(rank, head, page)[c];
      const volatile float product =
          weight *
          static_cast<float>(pages.view.Index(rank, head, page)[c * kPageTokens + t % kPageTokens]);
      score = score + product;
    }
    scores.push_back(score);
  }
  return scores;
}

TEST(Select, OfAnyKeysIsTheSortOfTheIndexScoresBitForBit) {
  for (const Heads& heads : kHeads) {
    SealedPages pages(heads, 7);
    FillNormally(pages, 51);
    for (uint64_t seed = 0; seed < 5; ++seed) {
      const std::vector<float> q = NormalQuery(heads, seed);
      const SelectParams params = {8, 100, 8};
      Selection got;
      SelectScratch scratch;
      Select(Input(pages, 1, q, params), scratch, &got);
      for (int32_t head = 0; head < heads.kv_heads; ++head) {
        Selection one;
        PrepareSelection(Input(pages, 1, q, params), &one);
        SelectHead(Input(pages, 1, q, params), head, scratch, &one);
        const auto want =
            Largest(IndexScores(pages, 0, head, scratch.q_mean, scratch.channels, 8), 100, 8);
        ASSERT_EQ(TokensOf(got, head), want) << "seed " << seed << " head " << head;
        ASSERT_EQ(TokensOf(one, head), want) << "a head alone";
      }
    }
  }
}

// A code is off by scale / 2 at most, so a score by half the sum of |q_mean[c]| * scale[c]; 1 %
// more covers the roundings, some 2^-13 of it. What is chosen is within twice that of what is not.
TEST(Select, OfAnyKeysIsNearTheOracleByTheBoundOfTheIndex) {
  for (const Heads& heads : kHeads) {
    SealedPages pages(heads, 5);
    FillNormally(pages, 61);
    const std::vector<float> q = NormalQuery(heads, 62);
    Selection got;
    SelectScratch scratch;
    for (int32_t head = 0; head < heads.kv_heads; ++head) {
      PrepareSelection(Input(pages, 1, q, {8, 64, 8}), &got);
      SelectHead(Input(pages, 1, q, {8, 64, 8}), head, scratch, &got);
      const std::vector<double> mean = Means(q, head, heads);
      const auto scores = OracleScores(pages, 1, head, mean, scratch.channels, 8);
      double bound = 0;
      for (const PageId page : pages.page_list) {
        double of_page = 0;
        for (const int32_t c : scratch.channels) {
          of_page += 0.505 * std::abs(mean[c]) * pages.view.IndexScale(0, head, page)[c];
        }
        bound = std::max(bound, of_page);
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
    Select(Input(pages, 1, q, {8, 30, sink}), scratch, &got);
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
    Select(Input(pages, 1, q, {8, 50, 8}), scratch, &got);
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
  EXPECT_TRUE(ValidateSelectParams({64, kMaxTopK, kPageTokens}, shape).ok());
  const auto says = [&](const SelectParams& params, const char* message) {
    EXPECT_EQ(ValidateSelectParams(params, shape), absl::InvalidArgumentError(message));
  };
  says({0, 1, 0}, "channels is 0, limit 1..64");
  says({65, 1, 0}, "channels is 65, limit 1..64");
  says({8, 0, 0}, "top_k is 0, limit 1..4096");
  says({8, 4097, 0}, "top_k is 4097, limit 1..4096");
  says({8, 1, -1}, "sink_tokens is -1, limit 0..128");
  says({8, 1, 129}, "sink_tokens is 129, limit 0..128");
}

}  // namespace
}  // namespace tailor
