// The k largest by sorting everything: larger first, equal ones by position, NaN as -infinity.
#include "kvstore/select/top_k.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

namespace tailor {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

std::vector<int32_t> Oracle(const std::vector<float>& scores, int32_t k) {
  std::vector<int32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  const auto value = [&](int32_t i) { return std::isnan(scores[i]) ? -kInfinity : scores[i]; };
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return value(a) > value(b); });
  order.resize(std::min<size_t>(order.size(), static_cast<size_t>(k)));
  std::sort(order.begin(), order.end());
  return order;
}

// Scratch is used over and over, as a store's thread does.
struct Scratch {
  std::vector<float> block_max = {1e30f};
  std::vector<int32_t> survivors = {12345};

  std::vector<int32_t> Largest(const std::vector<float>& scores, int32_t k) {
    std::vector<int32_t> out = {-7};
    TopK(scores, k, block_max, survivors, &out);
    EXPECT_EQ(out.front(), -7) << "appends";
    return {out.begin() + 1, out.end()};
  }
};

// Around vectors of 16, blocks of 16 vectors, and where the size of a block changes with k.
std::vector<size_t> Sizes() {
  std::vector<size_t> sizes;
  for (const size_t near : {16u, 32u, 256u, 512u, 1024u, 4096u}) {
    for (const size_t n : {near - 1, near, near + 1}) sizes.push_back(n);
  }
  for (const size_t n : {1u, 2u, 120u, 1000u, 2040u, 8192u - 8u}) sizes.push_back(n);
  return sizes;
}

template <typename MakeScore>
void ExpectLikeSorting(MakeScore make_score) {
  Scratch scratch;
  for (const size_t n : Sizes()) {
    std::vector<float> scores(n);
    for (size_t i = 0; i < n; ++i) scores[i] = make_score(i);
    for (const int32_t k : {0, 1, 2, 7, 8, 31, 32, 33, 128, 129, 896, 4096}) {
      ASSERT_EQ(scratch.Largest(scores, k), Oracle(scores, k)) << "n " << n << " k " << k;
    }
    const auto size = static_cast<int32_t>(n);
    for (const int32_t k : {size - 1, size, size + 1, size / 2, size / 32}) {
      ASSERT_EQ(scratch.Largest(scores, k), Oracle(scores, k)) << "n " << n << " k " << k;
    }
  }
}

TEST(TopK, OfRandomScoresIsLikeSorting) {
  std::mt19937_64 random(31);
  std::normal_distribution<float> normal;
  ExpectLikeSorting([&](size_t) { return normal(random); });
}

TEST(TopK, OfFewDistinctValuesTakesTheLowerPositions) {
  std::mt19937_64 random(32);
  ExpectLikeSorting([&](size_t) { return static_cast<float>(random() % 3); });
  ExpectLikeSorting([&](size_t) { return random() % 50 == 0 ? 1.0f : 0.0f; });
}

TEST(TopK, OfEqualScoresTakesTheFirst) {
  ExpectLikeSorting([](size_t) { return 0.0f; });
  ExpectLikeSorting([](size_t) { return -kInfinity; });
}

TEST(TopK, TakesZeroesOfBothSignsForEqual) {
  ExpectLikeSorting([](size_t i) { return i % 2 == 0 ? -0.0f : 0.0f; });
}

TEST(TopK, OfAscendingAndDescendingScoresIsLikeSorting) {
  ExpectLikeSorting([](size_t i) { return static_cast<float>(i); });
  ExpectLikeSorting([](size_t i) { return -static_cast<float>(i); });
}

TEST(TopK, WithAllTheLargestInOneBlockIsLikeSorting) {
  ExpectLikeSorting([](size_t i) { return i >= 200 && i < 460 ? 5.0f + i % 7 : 1.0f; });
  ExpectLikeSorting([](size_t i) { return i % 16 == 3 ? 5.0f + i % 5 : 1.0f; });
}

TEST(TopK, TakesNanForTheLowest) {
  std::mt19937_64 random(33);
  ExpectLikeSorting([](size_t) { return kNaN; });
  ExpectLikeSorting([&](size_t) {
    const uint64_t kind = random() % 4;
    return kind == 0 ? kNaN : kind == 1 ? -kInfinity : static_cast<float>(random() % 10);
  });
  ExpectLikeSorting([&](size_t i) { return i % 100 == 99 ? kInfinity : kNaN; });
}

TEST(TopK, OfNoScoresIsEmpty) {
  Scratch scratch;
  EXPECT_TRUE(scratch.Largest({}, 0).empty());
  EXPECT_TRUE(scratch.Largest({}, 5).empty());
}

}  // namespace
}  // namespace tailor
