// The kernels' selection arithmetic, run on the host as the kernels run it, against kvstore/select.
#include "worker/ops/cuda/select_math.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <set>
#include <vector>

#include "kvstore/select/critical_channels.h"
#include "kvstore/select/kernels.h"
#include "kvstore/select/key_codes.h"
#include "kvstore/select/row_check.h"
#include "kvstore/select/top_k.h"
#include "worker/ops/cuda/index_page.h"
#include "worker/ops/cuda/row_cache.h"
#include "worker/ops/cuda/row_check.h"

namespace tailor::cuda {
namespace {

std::vector<int32_t> TopKAsKernel(const std::vector<float>& scores, int32_t k) {
  RadixSelect select = {.prefix = 0, .wanted = k, .step = 0};
  for (int step = 0; step < RadixSelect::kSteps; ++step) {
    uint32_t bins[RadixSelect::kBins] = {};
    for (const float score : scores) {
      const uint32_t key = ScoreKey(score);
      if (select.Matches(key)) ++bins[select.Digit(key)];
    }
    select.Take(bins);
  }
  std::vector<int32_t> tokens;
  int32_t ties_left = select.wanted;
  for (size_t t = 0; t < scores.size(); ++t) {
    const uint32_t key = ScoreKey(scores[t]);
    if (key > select.prefix || (key == select.prefix && ties_left > 0)) {
      tokens.push_back(static_cast<int32_t>(t));
      if (key == select.prefix) --ties_left;
    }
  }
  return tokens;
}

std::vector<int32_t> TopKOnHost(const std::vector<float>& scores, int32_t k) {
  std::vector<float> block_max;
  std::vector<int32_t> survivors, tokens;
  TopK(scores, k, block_max, survivors, &tokens);
  return tokens;
}

TEST(SelectMathTest, TopKIsTheHostsUnderTiesZerosInfinitiesAndNaN) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float special[] = {0.0f,           -0.0f,  kInfinity, -kInfinity, std::nanf(""),
                           -std::nanf(""), 1e-45f, -1e-45f,   1.0f,       -1.0f};
  const uint64_t seed = 3;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  for (int round = 0; round < 600; ++round) {
    const auto n = static_cast<size_t>(1 + random() % 700);
    const int levels = static_cast<int>(random() % 3);  // many ties, some, none
    std::vector<float> scores(n);
    for (float& score : scores) {
      score = levels == 0   ? special[random() % std::size(special)]
              : levels == 1 ? static_cast<float>(random() % 7) - 3.0f
                            : normal(random);
    }
    const auto k = static_cast<int32_t>(1 + random() % n);
    ASSERT_EQ(TopKAsKernel(scores, k), TopKOnHost(scores, k)) << "round " << round << ", k " << k;
  }
}

TEST(SelectMathTest, CriticalChannelsAreTheHostsTiesIncluded) {
  std::mt19937_64 random(9);
  for (int round = 0; round < 300; ++round) {
    const int32_t d = round % 2 == 0 ? 64 : 128, count = static_cast<int32_t>(1 + random() % d);
    std::vector<float> q_mean(d), kmax(d);
    for (float& q : q_mean) q = static_cast<float>(random() % 9) - 4.0f;
    for (float& k : kmax) k = static_cast<float>(random() % 4);
    for (int i = round % 5; i > 0; --i) q_mean[random() % d] = std::nanf("");
    std::vector<int32_t> want, got;
    CriticalChannels(q_mean, kmax, count, &want);
    const auto importance = [&](int32_t c) { return Importance(q_mean[c], kmax[c]); };
    for (int32_t c = 0; c < d; ++c) {
      int32_t rank = 0;
      for (int32_t o = 0; o < d; ++o) {
        rank += IsMoreCritical(importance(o), o, importance(c), c) ? 1 : 0;
      }
      if (rank < count) got.push_back(c);
    }
    ASSERT_EQ(got, want) << "round " << round;
  }
}

// Any bits: NaN, infinities, denormals and their like among them.
float AnyFloat(std::mt19937_64& random) {
  std::normal_distribution<float> normal;
  return random() % 4 == 0 ? BitsFloat(static_cast<uint32_t>(random())) : normal(random);
}

TEST(SelectMathTest, CodesLieWhereTheStorePutsThem) {
  std::set<int32_t> tokens;
  for (int32_t word = 0; word < 16; ++word) {
    for (int32_t half = 0; half < 2; ++half) {
      for (int32_t i = 0; i < 4; ++i) {
        const int32_t t = FirstTokenOfWord(word, half) + i;
        EXPECT_EQ(CodeByte(t), word * 4 + i) << t;
        EXPECT_EQ(CodeShift(t), 4 * half) << t;
        tokens.insert(t);
      }
    }
  }
  EXPECT_EQ(tokens.size(), static_cast<size_t>(kPageRows));
  EXPECT_EQ(kIndexCodeBytes, kCodeBytes);
  EXPECT_EQ(kIndexLanes, kLanes);
}

TEST(SelectMathTest, ScoresOfAPageAreTheHostsBitForBit) {
  const uint64_t seed = 4;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  for (int round = 0; round < 300; ++round) {
    const auto count = static_cast<int32_t>(1 + random() % 128), even = count + count % 2;
    const int32_t padded = (count + kLanes - 1) / kLanes * kLanes;
    std::vector<float> q(padded), scale(padded), min(padded);
    for (int32_t c = 0; c < count; ++c) {
      q[c] = AnyFloat(random);
      scale[c] = std::abs(AnyFloat(random));
      min[c] = AnyFloat(random);
    }
    std::vector<uint8_t> codes(int64_t{count} * kCodeBytes);
    for (uint8_t& code : codes) code = static_cast<uint8_t>(random());
    std::vector<const uint8_t*> channels;
    for (int32_t c = 0; c < even; ++c) {
      channels.push_back(codes.data() + int64_t{std::min(c, count - 1)} * kCodeBytes);
    }
    std::vector<int8_t> weights(padded);
    std::vector<float> want(kPageRows);
    const int32_t limit = WeightLimit(count);
    ASSERT_EQ(IndexWeightLimit(count), limit);
    const QueryTerms terms = ChooseSelectKernels().weigh(q.data(), scale.data(), min.data(), padded,
                                                         limit, weights.data());
    ChooseSelectKernels().score_page(channels, weights.data(), padded, {&terms, 1}, want.data(),
                                     kPageRows);
    float largest = 0.0f;
    for (int32_t c = 0; c < padded; ++c) {
      const float size = WeightSize(q[c], scale[c]);
      largest = size > largest ? size : largest;
    }
    const auto top = static_cast<float>(limit);
    const float inverse = largest > 0.0f ? DivRounded(top, largest) : 0.0f;
    for (int32_t word = 0; word < 16; ++word) {
      for (int32_t half = 0; half < 2; ++half) {
        CodeSums sums;
        for (int32_t c = 0; c < even; ++c) {
          uint32_t both;
          std::memcpy(&both, channels[c] + 4 * word, sizeof(both));
          sums.Add(both >> 4 * half, RoundedWeight(q[c], scale[c], inverse, top));
        }
        for (int i = 0; i < 4; ++i) {
          const int32_t t = FirstTokenOfWord(word, half) + i;
          const float got = IndexScore(sums.Of(i), DivRounded(largest, top), terms.bias);
          if (std::isnan(want[t])) {
            ASSERT_TRUE(std::isnan(got)) << "round " << round << " token " << t;
          } else {
            ASSERT_EQ(FloatBits(got), FloatBits(want[t])) << "round " << round << " token " << t;
          }
        }
      }
    }
  }
}

// The largest weights of either sign over the most channels: both tokens of a word at their limits.
TEST(SelectMathTest, PackedSumsHoldTheExtremesOfEverySign) {
  for (const int32_t count : {1, 2, 24, 25, 128}) {
    for (const int32_t low : {0, 15}) {
      for (const int32_t high : {0, 15}) {
        for (const int32_t sign : {-1, 1}) {
          CodeSums sums;
          const int32_t weight = sign * IndexWeightLimit(count), n = count + count % 2;
          const auto codes = static_cast<uint32_t>(low | low << 8 | high << 16 | high << 24);
          for (int32_t c = 0; c < n; ++c) sums.Add(codes, weight);
          for (int i = 0; i < 4; ++i) ASSERT_EQ(sums.Of(i), n * weight * (i < 2 ? low : high));
        }
      }
    }
  }
}

TEST(SelectMathTest, TheExponentialIsTheHostsOnAnyBits) {
  std::mt19937_64 random(11);
  for (int i = 0; i < 200000; ++i) {
    const float x = i % 2 == 0 ? BitsFloat(static_cast<uint32_t>(random()))
                               : static_cast<float>(random() % 400000) / 1000.0f - 200.0f;
    ASSERT_EQ(FloatBits(LinearExp2(x)), FloatBits(Exp2(x))) << x;
  }
}

TEST(SelectMathTest, TheCheckOfARowsPiecesIsTheStoresCheckOfTheRow) {
  std::mt19937_64 random(13);
  for (int round = 0; round < 2000; ++round) {
    const int32_t head_dim = round % 2 == 0 ? 64 : 128, bytes = 4 * head_dim;
    std::vector<BFloat16> row(2 * head_dim);
    for (BFloat16& value : row) value.bits = static_cast<uint16_t>(random());
    uint64_t folds = 0;
    for (int32_t inside = 0; inside < kCheckStripe; inside += kCheckPiece) {
      CheckSums sums;
      for (int32_t byte = inside; byte < bytes; byte += kCheckStripe) {
        uint64_t words[2];
        std::memcpy(words, reinterpret_cast<const std::byte*>(row.data()) + byte, sizeof(words));
        const CheckSums piece = CheckOfPiece(words[0], words[1], byte, bytes);
        sums.a += piece.a;
        sums.b += piece.b;
      }
      folds += FoldChecks(sums, inside);
    }
    ASSERT_EQ(FinishCheck(folds, bytes), RowCheck(row)) << "round " << round;
  }
}

// Every row that a plan says is kept is the token's own, and no slot serves two tokens of one step.
TEST(SelectMathTest, ARowCachePlanNeverMixesTokens) {
  const uint64_t seed = 21;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  for (int round = 0; round < 60; ++round) {
    const auto slots = static_cast<int32_t>(kRowCacheWays * (1 + random() % 12));
    std::vector<int32_t> tags(slots), held(slots, -1);  // held: whose row lies in a slot
    std::vector<uint32_t> used(slots);
    for (uint32_t step = 1; step < 30; ++step) {
      std::set<int32_t> chosen;
      while (chosen.size() < 20) chosen.insert(static_cast<int32_t>(random() % 60));
      const std::vector<int32_t> tokens(chosen.begin(), chosen.end());
      const auto count = static_cast<int32_t>(tokens.size());
      std::vector<int32_t> sources(count, 12345);
      int32_t hits = 0;
      for (int32_t set = 0; set < slots / kRowCacheWays; ++set) {
        hits += PlanSet(tags.data(), used.data(), slots, set, step, tokens.data(), count,
                        sources.data());
      }
      std::set<int32_t> taken;
      for (int32_t i = 0; i < count; ++i) {
        if (sources[i] >= 0) {
          ASSERT_EQ(held[sources[i]], tokens[i]);
          --hits;
        }
        if (sources[i] == kNotKept) continue;
        const int32_t slot = sources[i] >= 0 ? sources[i] : FillSlot(sources[i]);
        ASSERT_GE(slot, 0);
        ASSERT_LT(slot, slots);
        ASSERT_TRUE(taken.insert(slot).second);
        ASSERT_EQ(FindRow(tags.data(), slots, tokens[i]), slot);
      }
      ASSERT_EQ(hits, 0);
      for (int32_t i = 0; i < count; ++i) {
        if (sources[i] < kNotKept) held[FillSlot(sources[i])] = tokens[i];
      }
    }
  }
}

TEST(SelectMathTest, TheLeastRecentlyUsedRowOfASetGivesWay) {
  std::vector<int32_t> tags(8);
  std::vector<uint32_t> used(8);
  uint32_t step = 0;
  const auto fetch = [&](std::vector<int32_t> tokens) {
    std::vector<int32_t> sources(tokens.size());
    int32_t hits = 0;
    ++step;
    for (int32_t set = 0; set < 2; ++set) {
      hits += PlanSet(tags.data(), used.data(), 8, set, step, tokens.data(),
                      static_cast<int32_t>(tokens.size()), sources.data());
    }
    return hits;
  };
  EXPECT_EQ(fetch({0, 2}), 0);  // of set 0
  EXPECT_EQ(fetch({4, 6}), 0);
  EXPECT_EQ(fetch({0}), 1);
  EXPECT_EQ(fetch({8}), 0);  // in the place of 2
  EXPECT_EQ(fetch({0, 4, 6, 8}), 4);
  EXPECT_EQ(fetch({0, 2, 4, 6, 8}), 4) << "no row of this step gives way";
  EXPECT_EQ(fetch({2}), 0);
}

TEST(SelectMathTest, AKeyLeadsBackToItsScore) {
  std::mt19937_64 random(12);
  for (int i = 0; i < 10000; ++i) {
    const float score = BitsFloat(static_cast<uint32_t>(random()));
    if (score != score) continue;
    ASSERT_EQ(KeyScore(ScoreKey(score)), score);
  }
  EXPECT_EQ(KeyScore(ScoreKey(std::nanf(""))), -std::numeric_limits<float>::infinity());
}

}  // namespace
}  // namespace tailor::cuda
