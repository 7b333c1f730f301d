// The kernels' selection arithmetic, run on the host as the kernels run it, against kvstore/select.
#include "worker/ops/cuda/select_math.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kvstore/select/critical_channels.h"
#include "kvstore/select/top_k.h"

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
    std::vector<int32_t> want, got;
    CriticalChannels(q_mean, kmax, count, &want);
    const auto importance = [&](int32_t c) { return MulRounded(std::abs(q_mean[c]), kmax[c]); };
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

// The published 8-bit index (ALGORITHM §3.4): one multiplication and one addition a channel, in order.
TEST(SelectMathTest, ScoresOfAnIndexPageAreTheDefinitionsBitForBit) {
  std::mt19937_64 random(4);
  std::normal_distribution<float> normal;
  constexpr int kChannels = 12;
  std::vector<int8_t> codes(kChannels * kPageRows);
  for (int8_t& code : codes) code = static_cast<int8_t>(random());
  std::vector<float> q(kChannels), scale(kChannels);
  for (int i = 0; i < kChannels; ++i) {
    q[i] = normal(random);
    scale[i] = normal(random);
  }
  std::vector<float> want(kPageRows, 0.0f);
  for (int i = 0; i < kChannels; ++i) {
    const float weight = q[i] * scale[i];
    for (int t = 0; t < kPageRows; ++t) want[t] += weight * codes[i * kPageRows + t];
  }
  for (int t = 0; t < kPageRows; ++t) {
    float score = 0.0f;
    for (int i = 0; i < kChannels; ++i) {
      score =
          AddTerm(score, MulRounded(q[i], scale[i]), static_cast<float>(codes[i * kPageRows + t]));
    }
    ASSERT_EQ(FloatBits(score), FloatBits(want[t])) << "token " << t;
  }
}

}  // namespace
}  // namespace tailor::cuda
