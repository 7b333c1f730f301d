// ALGORITHM §3.3 in fp64: importance[c] = |q_mean[c]| * kmax[c], the largest `count`, ties to the
// lower channel.
#include "kvstore/select/critical_channels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <set>
#include <vector>

namespace tailor {
namespace {

std::vector<int32_t> Chosen(const std::vector<float>& q_mean, const std::vector<float>& kmax,
                            int32_t count) {
  std::vector<int32_t> channels;
  CriticalChannels(q_mean, kmax, count, &channels);
  return channels;
}

// By sorting all of them.
std::vector<int32_t> Oracle(const std::vector<float>& q_mean, const std::vector<float>& kmax,
                            int32_t count) {
  std::vector<int32_t> order(q_mean.size());
  std::iota(order.begin(), order.end(), 0);
  const auto importance = [&](int32_t c) { return std::abs(double{q_mean[c]}) * double{kmax[c]}; };
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return importance(a) > importance(b); });
  order.resize(count);
  std::sort(order.begin(), order.end());
  return order;
}

// Small integers: every product is exact, and ties are many.
TEST(CriticalChannels, AreTheLargestByTheDefinitionWithTiesToTheLower) {
  std::mt19937_64 random(11);
  for (const size_t head_dim : {16u, 64u, 80u, 128u}) {
    for (int round = 0; round < 50; ++round) {
      std::vector<float> q_mean(head_dim), kmax(head_dim);
      for (float& q : q_mean) q = static_cast<float>(random() % 9) - 4.0f;
      for (float& k : kmax) k = static_cast<float>(random() % 4);
      for (const int32_t count : {1, 8, 12, static_cast<int32_t>(head_dim)}) {
        ASSERT_EQ(Chosen(q_mean, kmax, count), Oracle(q_mean, kmax, count))
            << "round " << round << " head_dim " << head_dim << " count " << count;
      }
    }
  }
}

// Products of two floats are exact in fp64; rounded to fp32 they may tie. So no channel left out is
// larger than one taken by more than one rounding, 2^-24 of either.
TEST(CriticalChannels, OfRandomValuesNoneLeftOutIsLarger) {
  std::mt19937_64 random(12);
  std::normal_distribution<float> normal;
  for (int round = 0; round < 200; ++round) {
    std::vector<float> q_mean(128), kmax(128);
    for (float& q : q_mean) q = normal(random);
    for (float& k : kmax) k = std::abs(normal(random));
    const std::vector<int32_t> chosen = Chosen(q_mean, kmax, 8);
    ASSERT_EQ(std::set<int32_t>(chosen.begin(), chosen.end()).size(), 8u);
    double least_in = std::numeric_limits<double>::infinity(), most_out = 0;
    for (int32_t c = 0; c < 128; ++c) {
      const double importance = std::abs(double{q_mean[c]}) * double{kmax[c]};
      const bool in = std::binary_search(chosen.begin(), chosen.end(), c);
      (in ? least_in : most_out) =
          in ? std::min(least_in, importance) : std::max(most_out, importance);
    }
    EXPECT_GE(least_in * (1 + std::ldexp(1.0, -22)), most_out);
  }
}

TEST(CriticalChannels, AllEqualImportancesTakeTheFirstChannels) {
  EXPECT_EQ(Chosen(std::vector<float>(64, 0.0f), std::vector<float>(64, 3.0f), 4),
            std::vector<int32_t>({0, 1, 2, 3}));
  EXPECT_EQ(Chosen(std::vector<float>(64, -2.0f), std::vector<float>(64, 3.0f), 3),
            std::vector<int32_t>({0, 1, 2}));
}

// Queries come over the wire: any bits. NaN (and infinity times zero) is the least important.
TEST(CriticalChannels, ImportanceThatIsNotANumberComesLast) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  std::vector<float> q_mean(16, 1.0f), kmax(16, 1.0f);
  q_mean[0] = nan;
  q_mean[1] = infinity, kmax[1] = 0;
  q_mean[9] = infinity;
  kmax[12] = 5;
  EXPECT_EQ(Chosen(q_mean, kmax, 3), std::vector<int32_t>({2, 9, 12}));
  EXPECT_EQ(Chosen(q_mean, kmax, 15).front(), 0);
  EXPECT_EQ(Chosen(std::vector<float>(16, nan), kmax, 2), std::vector<int32_t>({0, 1}));
  std::mt19937_64 random(13);
  for (int round = 0; round < 100; ++round) {
    for (size_t c = 0; c < 16; ++c) {
      q_mean[c] = random() % 2 ? nan : static_cast<float>(random() % 5);
      kmax[c] = 1;
    }
    std::vector<float> cleaned = q_mean;
    for (float& q : cleaned) q = std::isnan(q) ? -0.0f : q + 1;
    ASSERT_EQ(Chosen(q_mean, kmax, 5), Oracle(cleaned, kmax, 5)) << "round " << round;
  }
}

// A sum of G floats and one division: each of G roundings moves it by at most 2^-24 of the sum of
// magnitudes.
TEST(GroupMean, IsTheMeanOverTheQueryHeadsOfTheGroup) {
  std::mt19937_64 random(14);
  std::normal_distribution<float> normal;
  for (const size_t group : {1u, 3u, 4u, 7u}) {
    std::vector<float> q(group * 64), mean(64, 99.0f);
    for (float& value : q) value = normal(random);
    GroupMean(q, &mean);
    for (size_t c = 0; c < 64; ++c) {
      double sum = 0, magnitudes = 0;
      for (size_t g = 0; g < group; ++g) {
        sum += q[g * 64 + c];
        magnitudes += std::abs(q[g * 64 + c]);
      }
      const auto heads = static_cast<double>(group);
      EXPECT_NEAR(mean[c], sum / heads, heads * std::ldexp(magnitudes / heads, -24));
    }
  }
}

}  // namespace
}  // namespace tailor
