// ALGORITHM §3.4 on the int8 index: score[t] = sum over terms of weight * code[t].
#include "kvstore/select/score.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "common/cpu/simd_level.h"

namespace tailor {
namespace {

struct Version {
  std::string name;
  ScorePageFn score;
};

// Those that this CPU runs, whatever TAILOR_SIMD says.
std::vector<Version> Versions() {
  const char* wanted = std::getenv("TAILOR_SIMD");
  const std::string restore = wanted == nullptr ? "" : wanted;
  ::unsetenv("TAILOR_SIMD");
  const SimdLevel hardware = DetectSimdLevel();
  if (wanted != nullptr) ::setenv("TAILOR_SIMD", restore.c_str(), 1);
  std::vector<Version> versions = {{"scalar", ScorePageScalar}};
  if (hardware >= SimdLevel::kAvx2) versions.push_back({"avx2", ScorePageAvx2});
  if (hardware >= SimdLevel::kAvx512) versions.push_back({"avx512", ScorePageAvx512});
  return versions;
}

struct Page {
  // One byte more in front, so that codes are not aligned.
  explicit Page(size_t channels, uint64_t seed) : codes(channels * kPageTokens + 1) {
    std::mt19937_64 random(seed);
    for (int8_t& code : codes) code = static_cast<int8_t>(static_cast<int>(random() % 255) - 127);
  }
  const int8_t* Channel(size_t c) const { return codes.data() + 1 + c * kPageTokens; }
  std::vector<int8_t> codes;
};

std::vector<float> Scores(const Version& version, std::span<const ChannelTerm> terms) {
  std::vector<float> scores(kPageTokens + 2, 77.0f);
  version.score(terms, scores.data() + 1);
  EXPECT_EQ(scores.front(), 77.0f) << version.name << " wrote before the page";
  EXPECT_EQ(scores.back(), 77.0f) << version.name << " wrote past the page";
  return {scores.begin() + 1, scores.end() - 1};
}

// Integer weights up to 2^10 times codes up to 127 over 128 channels stay below 2^24: exact in
// fp32, so they equal the integer sum.
TEST(ScorePage, OfIntegerWeightsIsTheIntegerSumAtEveryLevel) {
  std::mt19937_64 random(21);
  for (const size_t channels : {1u, 2u, 7u, 8u, 12u, 64u, 128u}) {
    const Page page(channels, channels);
    std::vector<ChannelTerm> terms;
    std::vector<int64_t> weights;
    for (size_t c = 0; c < channels; ++c) {
      weights.push_back(static_cast<int64_t>(random() % 2047) - 1023);
      terms.push_back({page.Channel(c), static_cast<float>(weights[c])});
    }
    for (const Version& version : Versions()) {
      const std::vector<float> scores = Scores(version, terms);
      for (int t = 0; t < kPageTokens; ++t) {
        int64_t sum = 0;
        for (size_t c = 0; c < channels; ++c) sum += weights[c] * page.Channel(c)[t];
        ASSERT_EQ(scores[t], static_cast<float>(sum))
            << version.name << " channels " << channels << " token " << t;
      }
    }
  }
}

// n terms, each one multiplication and one addition: an error of at most n + 1 roundings of 2^-24
// of the sum of magnitudes (to first order; 1 % covers the rest).
TEST(ScorePage, OfAnyWeightsIsTheSumUpToItsRoundings) {
  std::mt19937_64 random(22);
  std::normal_distribution<float> normal;
  for (const size_t channels : {1u, 8u, 12u, 128u}) {
    const Page page(channels, 100 + channels);
    std::vector<ChannelTerm> terms;
    for (size_t c = 0; c < channels; ++c) terms.push_back({page.Channel(c), normal(random)});
    for (const Version& version : Versions()) {
      const std::vector<float> scores = Scores(version, terms);
      for (int t = 0; t < kPageTokens; ++t) {
        double sum = 0, magnitudes = 0;
        for (const ChannelTerm& term : terms) {
          sum += double{term.weight} * term.codes[t];
          magnitudes += std::abs(double{term.weight} * term.codes[t]);
        }
        const double roundings = static_cast<double>(channels) + 1;
        ASSERT_NEAR(scores[t], sum, 1.01 * roundings * std::ldexp(magnitudes, -24));
      }
    }
  }
}

// One multiplication and one addition a term, in order, never fused: the bits are defined.
TEST(ScorePage, EveryLevelGivesTheBitsOfThePlainLoop) {
  std::mt19937_64 random(23);
  std::normal_distribution<float> normal;
  for (int round = 0; round < 50; ++round) {
    const size_t channels = 1 + random() % 16;
    const Page page(channels, random());
    std::vector<ChannelTerm> terms;
    for (size_t c = 0; c < channels; ++c) {
      terms.push_back({page.Channel(c), std::ldexp(normal(random), static_cast<int>(c % 5) * 7)});
    }
    for (const Version& version : Versions()) {
      const std::vector<float> scores = Scores(version, terms);
      for (int t = 0; t < kPageTokens; ++t) {
        volatile float sum = 0;  // volatile: each operation is rounded on its own
        for (const ChannelTerm& term : terms) {
          const volatile float product = term.weight * static_cast<float>(term.codes[t]);
          sum = sum + product;
        }
        ASSERT_EQ(std::bit_cast<uint32_t>(scores[t]), std::bit_cast<uint32_t>(float{sum}))
            << version.name << " round " << round << " token " << t;
      }
    }
  }
}

TEST(ChooseScorePage, IsLoweredByTheEnvironment) {
  const char* before = std::getenv("TAILOR_SIMD");
  const std::string restore = before == nullptr ? "" : before;
  ::setenv("TAILOR_SIMD", "scalar", 1);
  EXPECT_EQ(ChooseScorePage(), ScorePageScalar);
  ::unsetenv("TAILOR_SIMD");
  EXPECT_EQ(ChooseScorePage(), Versions().back().score);
  if (before != nullptr) ::setenv("TAILOR_SIMD", restore.c_str(), 1);
}

}  // namespace
}  // namespace tailor
