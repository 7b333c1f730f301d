#include "worker/sampling/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

namespace tailor {
namespace {

// The distribution of Sampler over `draws` positions.
std::vector<double> Frequencies(const SamplingParams& params, const std::vector<float>& logits,
                                int draws) {
  std::vector<double> counts(logits.size());
  for (int position = 0; position < draws; ++position) {
    Sampler sampler(params, {});
    counts[sampler.Next(logits, position).token] += 1.0 / draws;
  }
  return counts;
}

TEST(SamplerTest, TemperatureZeroTakesTheLargestAndTiesGoToTheLowerId) {
  Sampler sampler({}, {});
  EXPECT_EQ(sampler.Next(std::vector<float>{1, 3, 3, 2}, 0).token, 1);
}

TEST(SamplerTest, LogprobIsTheModels) {
  Sampler sampler({}, {});
  const std::vector<float> logits = {0.0f, std::log(3.0f)};
  EXPECT_NEAR(sampler.Next(logits, 0).logprob, std::log(0.75), 1e-6);
}

TEST(SamplerTest, DrawsFollowTheSoftmax) {
  SamplingParams params;
  params.temperature = 1.0f;
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.2f)};
  constexpr int kDraws = 40000;
  const auto freq = Frequencies(params, logits, kDraws);
  // Five standard deviations of a binomial share.
  for (int i = 0; i < 3; ++i) {
    const double p = std::exp(logits[i]);
    EXPECT_NEAR(freq[i], p, 5 * std::sqrt(p * (1 - p) / kDraws)) << i;
  }
}

TEST(SamplerTest, TheSameSeedAndPositionRepeatWhateverCameBefore) {
  SamplingParams params;
  params.temperature = 1.0f;
  params.seed = 99;
  const std::vector<float> logits(50, 0.0f);
  Sampler walked(params, {});
  std::vector<TokenId> all;
  for (int position = 0; position < 20; ++position) {
    all.push_back(walked.Next(logits, position).token);
  }
  for (int position = 0; position < 20; ++position) {
    Sampler fresh(params, {});
    EXPECT_EQ(fresh.Next(logits, position).token, all[position]) << position;
  }
  EXPECT_GT(std::set<TokenId>(all.begin(), all.end()).size(), 5u);
}

TEST(SamplerTest, TopKTopPAndMinPCutTheTail) {
  SamplingParams params;
  params.temperature = 1.0f;
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.15f),
                                     std::log(0.05f)};
  params.top_k = 2;
  EXPECT_EQ(Frequencies(params, logits, 2000)[2], 0);
  params = {.temperature = 1.0f, .top_p = 0.6f};
  auto freq = Frequencies(params, logits, 2000);
  EXPECT_GT(freq[1], 0);
  EXPECT_EQ(freq[2], 0);
  params = {.temperature = 1.0f, .min_p = 0.2f};
  freq = Frequencies(params, logits, 2000);
  EXPECT_GT(freq[2], 0);
  EXPECT_EQ(freq[3], 0);
}

TEST(SamplerTest, PenaltiesMoveTheChoice) {
  const std::vector<float> logits = {2.0f, 1.9f};
  Sampler plain({}, {});
  EXPECT_EQ(plain.Next(logits, 0).token, 0);
  EXPECT_EQ(plain.Next(logits, 1).token, 0);
  Sampler presence({.presence_penalty = 0.5f}, {});
  EXPECT_EQ(presence.Next(logits, 0).token, 0);
  EXPECT_EQ(presence.Next(logits, 1).token, 1);
  const std::vector<TokenId> context = {0};
  Sampler repetition({.repetition_penalty = 1.2f}, context);
  EXPECT_EQ(repetition.Next(logits, 0).token, 1);
}

TEST(SamplingParamsTest, OutOfRangeAndNanAreRefused) {
  EXPECT_TRUE(SamplingParams().Validate().ok());
  EXPECT_FALSE((SamplingParams{.temperature = 101}).Validate().ok());
  EXPECT_FALSE((SamplingParams{.temperature = NAN}).Validate().ok());
  EXPECT_FALSE((SamplingParams{.top_k = -1}).Validate().ok());
  EXPECT_FALSE((SamplingParams{.top_p = 0}).Validate().ok());
  EXPECT_FALSE((SamplingParams{.frequency_penalty = 3}).Validate().ok());
}

}  // namespace
}  // namespace tailor
