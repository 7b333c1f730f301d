// The loops of a selection against their definitions in kernels.h, and every SIMD level against the
// scalar one, bit for bit.
#include "kvstore/select/kernels.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "common/cpu/simd_level.h"
#include "kvstore/select/key_codes.h"

namespace tailor {
namespace {

struct Version {
  std::string name;
  const SelectKernels* kernels;
};

// Those that this CPU runs, whatever TAILOR_SIMD says.
std::vector<Version> Versions() {
  const char* wanted = std::getenv("TAILOR_SIMD");
  const std::string restore = wanted == nullptr ? "" : wanted;
  ::unsetenv("TAILOR_SIMD");
  const SimdLevel hardware = DetectSimdLevel();
  if (wanted != nullptr) ::setenv("TAILOR_SIMD", restore.c_str(), 1);
  std::vector<Version> versions = {{"scalar", &kSelectKernelsScalar}};
  if (hardware >= SimdLevel::kAvx2) versions.push_back({"avx2", &kSelectKernelsAvx2});
  if (hardware >= SimdLevel::kAvx512) versions.push_back({"avx512", &kSelectKernelsAvx512});
  return versions;
}

uint32_t Bits(float value) { return std::bit_cast<uint32_t>(value); }

std::vector<float> Normal(size_t n, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& value : values) value = normal(random);
  return values;
}

TEST(KeyCodes, EveryTokenHasAHalfByteOfItsOwn) {
  std::set<int32_t> places;
  for (int32_t t = 0; t < kPageTokens; ++t) {
    EXPECT_GE(CodeByte(t), 0);
    EXPECT_LT(CodeByte(t), kCodeBytes);
    EXPECT_TRUE(places.insert(CodeByte(t) * 8 + CodeShift(t)).second) << t;
  }
}

TEST(WeightLimit, IsTheLargestThatKeepsEverySumWithinAnInt16) {
  for (int32_t channels = 1; channels <= 1024; ++channels) {
    const int32_t limit = WeightLimit(channels), most = (channels + channels % 2) * kMaxCode;
    ASSERT_LE(limit * most, 32767) << channels;
    ASSERT_TRUE(limit == 127 || (limit + 1) * most > 32767) << channels;
  }
}

// Codes and weights at random, and all at their limits in both directions.
TEST(ScorePage, IsUnitTimesTheIntegerSumPlusBiasAtEveryLevel) {
  std::mt19937_64 random(21);
  for (const size_t channels : {2u, 8u, 24u, 64u, 128u, 1024u}) {
    for (int round = 0; round < 6; ++round) {
      const int limit = WeightLimit(static_cast<int32_t>(channels));
      std::vector<uint8_t> codes(channels * kCodeBytes + 1);
      for (uint8_t& code : codes) code = round == 0 ? 255 : static_cast<uint8_t>(random());
      std::vector<const uint8_t*> pages;
      for (size_t c = 0; c < channels; ++c) pages.push_back(codes.data() + 1 + c * kCodeBytes);
      std::vector<int8_t> weights(kQueryBlock * channels);
      for (size_t i = 0; i < weights.size(); ++i) {
        const int any = static_cast<int>(random() % (2 * limit + 1)) - limit;
        weights[i] = static_cast<int8_t>(round > 0 ? any : i < channels ? limit : -limit);
      }
      const std::vector<QueryTerms> terms = {{0.37f, 1.5f}, {1, 0}, {1e-3f, -7.25f}, {3, 1e4f}};
      const size_t queries = 1 + round % kQueryBlock;
      for (const Version& version : Versions()) {
        constexpr int64_t kStride = kPageTokens + 3;
        std::vector<float> scores(kQueryBlock * kStride, 77.0f);
        version.kernels->score_page(pages, weights.data(), static_cast<int32_t>(channels),
                                    std::span(terms).first(queries), scores.data(), kStride);
        for (size_t i = 0; i < kQueryBlock; ++i) {
          for (int t = 0; t < kStride; ++t) {
            volatile float want = 77.0f;  // volatile: each operation is rounded on its own
            if (i < queries && t < kPageTokens) {
              int sum = 0;
              for (size_t c = 0; c < channels; ++c) {
                sum += weights[i * channels + c] * CodeOf(pages[c], t);
              }
              want = terms[i].unit * static_cast<float>(sum);
              want = want + terms[i].bias;
            }
            ASSERT_EQ(Bits(scores[i * kStride + t]), Bits(float{want}))
                << version.name << " channels " << channels << " query " << i << " token " << t;
          }
        }
      }
    }
  }
}

// A weight is off by half a unit, and three roundings of at most limit units. The bias is at most
// `padded` products and sums, one rounding each.
TEST(Weigh, IsWithinHalfAUnitOfQTimesScaleAndEveryLevelGivesTheSameBits) {
  for (const int32_t padded : {16, 32, 128}) {
    for (uint64_t seed = 0; seed < 20; ++seed) {
      const auto q = Normal(padded, seed), scale = Normal(padded, seed + 100),
                 min = Normal(padded, seed + 200);
      const int32_t limit = WeightLimit(padded);
      std::vector<int8_t> first;
      QueryTerms first_terms;
      for (const Version& version : Versions()) {
        std::vector<int8_t> weights(padded);
        const QueryTerms terms = version.kernels->weigh(q.data(), scale.data(), min.data(), padded,
                                                        limit, weights.data());
        double bias = 0, magnitude = 0, largest = 0;
        for (int32_t c = 0; c < padded; ++c) {
          const double want = double{q[c]} * double{scale[c]};
          ASSERT_LE(std::abs(weights[c] * double{terms.unit} - want),
                    terms.unit * (0.5 + 4 * limit * std::ldexp(1.0, -24)));
          ASSERT_LE(std::abs(weights[c]), limit);
          largest = std::max(largest, std::abs(want));
          bias += double{q[c]} * double{min[c]};
          magnitude += std::abs(double{q[c]} * double{min[c]});
        }
        EXPECT_NEAR(terms.unit, largest / limit, terms.unit * 2 * std::ldexp(1.0, -24));
        EXPECT_NEAR(terms.bias, bias, 1.01 * padded * std::ldexp(magnitude, -24));
        if (first.empty()) first = weights, first_terms = terms;
        EXPECT_EQ(weights, first) << version.name;
        EXPECT_EQ(Bits(terms.unit), Bits(first_terms.unit)) << version.name;
        EXPECT_EQ(Bits(terms.bias), Bits(first_terms.bias)) << version.name;
      }
    }
  }
}

TEST(Weigh, OfNothingOrOfAnyBitsStaysWithinTheLimit) {
  std::mt19937_64 random(31);
  for (const Version& version : Versions()) {
    std::vector<float> q(16, 0.0f), scale(16, 1.0f), min(16, 2.0f);
    std::vector<int8_t> weights(16, 5);
    EXPECT_EQ(
        version.kernels->weigh(q.data(), scale.data(), min.data(), 16, 91, weights.data()).unit, 0);
    EXPECT_EQ(weights, std::vector<int8_t>(16, 0));
    for (int round = 0; round < 200; ++round) {
      for (float& value : q) value = std::bit_cast<float>(static_cast<uint32_t>(random()));
      version.kernels->weigh(q.data(), scale.data(), min.data(), 16, 91, weights.data());
      for (const int8_t weight : weights) ASSERT_LE(std::abs(weight), 91) << version.name;
    }
  }
}

TEST(Exp2, IsExactAtIntegersMonotoneAndWithinItsStatedError) {
  for (int i = -126; i <= 60; ++i) EXPECT_EQ(Exp2(static_cast<float>(i)), std::ldexp(1.0f, i));
  float before = 0;
  for (float x = -126.0f; x < 60.0f; x += 0.013f) {
    const double exact = std::exp2(double{x});
    // The exponent's 2^23 steps times x: one rounding of up to 2^30 moves it by 2^6 steps.
    ASSERT_GE(Exp2(x), exact * (1 - std::ldexp(1.0, 7 - 23))) << x;
    ASSERT_LE(Exp2(x), exact * 1.062) << x;
    ASSERT_GE(Exp2(x), before) << x;
    before = Exp2(x);
  }
  EXPECT_EQ(Exp2(-1e30f), std::ldexp(1.0f, -126));
  EXPECT_EQ(Exp2(1e30f), std::ldexp(1.0f, 60));
  EXPECT_EQ(Exp2(NAN), std::ldexp(1.0f, 60));
}

TEST(Exponents, AreExp2OfTheDistanceToTheLargestAndEveryLevelGivesTheSameBits) {
  for (const int64_t n : {16, 128, 1280}) {
    std::vector<float> scores = Normal(n, n);
    for (float& score : scores) score *= 20;
    const float largest = *std::max_element(scores.begin(), scores.end());
    double sum = 0;
    for (const float score : scores) sum += Exp2(score - largest);
    std::vector<uint32_t> factors, totals;
    for (const Version& version : Versions()) {
      std::vector<float> got = scores, total(n, 0.25f);
      const ScoreShare share = version.kernels->exponents(got.data(), n);
      EXPECT_EQ(share.largest, largest);
      EXPECT_NEAR(share.factor, 1 / sum, 1.01 * n * std::ldexp(1 / sum, -24));
      version.kernels->add(got.data(), share.factor, total.data(), n);
      for (int64_t t = 0; t < n; ++t) {
        ASSERT_EQ(Bits(got[t]), Bits(Exp2(scores[t] - largest))) << version.name << " token " << t;
        const volatile float product = share.factor * got[t];
        ASSERT_EQ(Bits(total[t]), Bits(0.25f + product)) << version.name << " token " << t;
      }
      factors.push_back(Bits(share.factor));
      EXPECT_EQ(factors.back(), factors.front()) << version.name;
    }
  }
}

// So a device may add pages side by side.
TEST(Exponents, AreAddedByLanesOfAPageThenByPagesThenByHalvesOfTheLanes) {
  constexpr int64_t kPages = 40;
  std::vector<float> scores = Normal(kPages * kPageTokens, 3);
  for (float& score : scores) score *= 9;
  const float largest = *std::max_element(scores.begin(), scores.end());
  volatile float lanes[16] = {};
  for (int64_t page = 0; page < kPages; ++page) {
    for (int lane = 0; lane < 16; ++lane) {
      volatile float sum = 0;
      for (int t = lane; t < kPageTokens; t += 16) {
        sum = sum + Exp2(scores[page * kPageTokens + t] - largest);
      }
      lanes[lane] = lanes[lane] + sum;
    }
  }
  for (int half = 8; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) lanes[lane] = lanes[lane] + lanes[lane + half];
  }
  for (const Version& version : Versions()) {
    std::vector<float> got = scores;
    const ScoreShare share =
        version.kernels->exponents(got.data(), static_cast<int64_t>(got.size()));
    EXPECT_EQ(Bits(share.factor), Bits(1.0f / lanes[0])) << version.name;
  }
}

TEST(Exponents, NaNHasNoPartInTheLargestWhereverItStands) {
  for (const int nan : {0, 3, 15, 16, 130}) {
    std::vector<float> scores = Normal(2 * kPageTokens, 8);
    scores[nan] = NAN;
    float largest = -INFINITY;
    for (const float score : scores) largest = score > largest ? score : largest;
    for (const Version& version : Versions()) {
      std::vector<float> got = scores;
      EXPECT_EQ(version.kernels->exponents(got.data(), 2 * kPageTokens).largest, largest)
          << version.name << " token " << nan;
    }
  }
}

TEST(Dot, IsTheSumOfProductsAndEveryLevelGivesTheSameBits) {
  for (const int32_t head_dim : {16, 64, 80, 128}) {
    const std::vector<float> q = Normal(head_dim, head_dim), k = Normal(head_dim, 1 + head_dim);
    std::vector<BFloat16> key;
    double dot = 0, magnitude = 0;
    for (int32_t c = 0; c < head_dim; ++c) {
      key.push_back(ToBFloat16(k[c]));
      dot += double{q[c]} * ToFloat(key[c]);
      magnitude += std::abs(double{q[c]} * ToFloat(key[c]));
    }
    const float first = kSelectKernelsScalar.dot(q.data(), key.data(), head_dim);
    EXPECT_NEAR(first, dot, 1.01 * head_dim * std::ldexp(magnitude, -24));
    for (const Version& version : Versions()) {
      EXPECT_EQ(Bits(version.kernels->dot(q.data(), key.data(), head_dim)), Bits(first))
          << version.name;
    }
  }
}

TEST(ChooseSelectKernels, IsLoweredByTheEnvironment) {
  const char* before = std::getenv("TAILOR_SIMD");
  const std::string restore = before == nullptr ? "" : before;
  ::setenv("TAILOR_SIMD", "scalar", 1);
  EXPECT_EQ(&ChooseSelectKernels(), &kSelectKernelsScalar);
  ::unsetenv("TAILOR_SIMD");
  EXPECT_EQ(&ChooseSelectKernels(), Versions().back().kernels);
  if (before != nullptr) ::setenv("TAILOR_SIMD", restore.c_str(), 1);
}

}  // namespace
}  // namespace tailor
