// The meter against one softmax in double over all tokens, with attention planted where it is known.
#include "worker/cache/self_check.h"

#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <random>

namespace tailor {
namespace {

constexpr int kDim = 16;

struct Token {
  double score;
  std::vector<double> value;  // [kDim]
};

struct Set {
  std::vector<float> lse, out;
  PartialAttention view() const { return {lse, out}; }
};

// Attention of one query head over the tokens for which `in` is true, in double.
template <typename In>
Set Attend(const std::vector<Token>& tokens, In in) {
  double largest = -INFINITY, sum = 0;
  for (size_t t = 0; t < tokens.size(); ++t) {
    if (in(t)) largest = std::max(largest, tokens[t].score);
  }
  std::vector<double> out(kDim, 0.0);
  for (size_t t = 0; t < tokens.size(); ++t) {
    if (!in(t)) continue;
    const double weight = std::exp(tokens[t].score - largest);
    sum += weight;
    for (int c = 0; c < kDim; ++c) out[c] += weight * tokens[t].value[c];
  }
  Set set{{static_cast<float>(largest + std::log(sum))}, std::vector<float>(kDim, 0.0f)};
  for (int c = 0; sum > 0 && c < kDim; ++c) set.out[c] = static_cast<float>(out[c] / sum);
  return set;
}

std::vector<Token> RandomTokens(int count, double spread, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  std::vector<Token> tokens(count);
  for (Token& token : tokens) {
    token.score = spread * normal(random);
    for (int c = 0; c < kDim; ++c) token.value.push_back(normal(random));
  }
  return tokens;
}

// Tokens 0..7 are the sink, the last 32 the window, those in between candidates.
class SelfCheckTest : public ::testing::Test {
 protected:
  template <typename Fetched>
  HeadCheck Check(const std::vector<Token>& tokens, Fetched fetched) {
    const size_t window = tokens.size() - 32;
    const auto candidate = [&](size_t t) { return t >= 8 && t < window; };
    const auto taken = [&](size_t t) { return candidate(t) && fetched(t); };
    const auto attended = [&](size_t t) { return !candidate(t) || fetched(t); };
    const Set near = Attend(tokens, attended), all = Attend(tokens, candidate),
              got = Attend(tokens, taken);
    const HeadCheck check = CompareWithExact(near.view(), all.view(), got.view(), near.out);
    ExpectTruth(tokens, attended, near, check);
    return check;
  }

 private:
  template <typename Attended>
  void ExpectTruth(const std::vector<Token>& tokens, Attended attended, const Set& near,
                   const HeadCheck& check) {
    double largest = -INFINITY, seen = 0, total = 0, error = 0, norm = 0;
    for (const Token& token : tokens) largest = std::max(largest, token.score);
    std::vector<double> exact(kDim, 0.0);
    for (size_t t = 0; t < tokens.size(); ++t) {
      const double weight = std::exp(tokens[t].score - largest);
      total += weight;
      if (attended(t)) seen += weight;
      for (int c = 0; c < kDim; ++c) exact[c] += weight * tokens[t].value[c];
    }
    for (int c = 0; c < kDim; ++c) {
      exact[c] /= total;
      error += (near.out[c] - exact[c]) * (near.out[c] - exact[c]);
      norm += exact[c] * exact[c];
    }
    // Each log-sum-exp is rounded to a float: its size times epsilon, and so each mass.
    const double rounding = 4 * FLT_EPSILON * (std::abs(largest) + 16);
    EXPECT_NEAR(check.captured_mass, seen / total, rounding);
    EXPECT_NEAR(check.output_error, std::sqrt(error / norm), rounding * 16 / std::sqrt(norm));
  }
};

TEST_F(SelfCheckTest, RandomAttentionIsMeasuredAsItIs) {
  for (const uint64_t seed : {1, 2, 3}) {
    for (const double spread : {0.1, 1.0, 5.0}) {
      SCOPED_TRACE(testing::Message() << "seed " << seed << " spread " << spread);
      Check(RandomTokens(600, spread, seed), [](size_t t) { return t % 5 == 0; });
    }
  }
}

TEST_F(SelfCheckTest, AllOnOneFetchedTokenIsAllCaptured) {
  auto tokens = RandomTokens(600, 0.1, 4);
  tokens[300].score = 40;
  const HeadCheck check = Check(tokens, [](size_t t) { return t == 300; });
  EXPECT_NEAR(check.captured_mass, 1.0, 1e-5);
  EXPECT_NEAR(check.output_error, 0.0, 1e-5);
}

TEST_F(SelfCheckTest, ANeedleThatWasNotFetchedIsMissed) {
  auto tokens = RandomTokens(600, 0.1, 5);
  tokens[300].score = 40;
  const HeadCheck check = Check(tokens, [](size_t t) { return t == 301; });
  EXPECT_NEAR(check.captured_mass, 0.0, 1e-5);
  EXPECT_GT(check.output_error, 0.5);
}

TEST_F(SelfCheckTest, OfFlatAttentionItsShareOfTheTokensIsCaptured) {
  const auto tokens = RandomTokens(600, 0.0, 6);
  const HeadCheck check = Check(tokens, [](size_t t) { return t < 8 + 56; });
  EXPECT_NEAR(check.captured_mass, (8 + 56 + 32) / 600.0, 1e-5);
}

TEST_F(SelfCheckTest, FetchingNothingAndFetchingAllAreMeasuredToo) {
  const auto tokens = RandomTokens(600, 1.0, 7);
  EXPECT_LT(Check(tokens, [](size_t) { return false; }).captured_mass, 0.5);
  const HeadCheck all = Check(tokens, [](size_t) { return true; });
  EXPECT_NEAR(all.captured_mass, 1.0, 1e-5);
  EXPECT_NEAR(all.output_error, 0.0, 1e-5);
}

TEST(CheckTotalsTest, MeansAndTheWorstAreOverAllHeads) {
  CheckTotals totals;
  totals.Add({.captured_mass = 0.5, .output_error = 0.25});
  totals.Add({.captured_mass = 1.0, .output_error = 0.0});
  EXPECT_EQ(totals.heads, 2);
  EXPECT_EQ(totals.captured_mass_sum, 1.5);
  EXPECT_EQ(totals.worst_captured_mass, 0.5);
  EXPECT_EQ(totals.output_error_sum, 0.25);
}

}  // namespace
}  // namespace tailor
