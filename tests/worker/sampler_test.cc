#include "worker/sampling/sampler.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <random>
#include <set>

#include "tests/worker/host_sampler.h"
#include "worker/ops/backend.h"

namespace tailor {
namespace {

// A sampler and the backend that reduces for it.
class TestedSampler {
 public:
  TestedSampler(const SamplingParams& params, std::span<const TokenId> context,
                std::span<const TokenId> resumed = {})
      : sampler_(params, context, resumed) {}

  Sample Next(std::span<const float> logits, int64_t position) {
    const LogitReduction reduced = Reduce(logits);
    const auto drawn = sampler_.Next(reduced, position);
    if (drawn.has_value()) return *drawn;
    ++needed_logits;
    return sampler_.Next(reduced, logits, position);
  }
  // The path that a draw beyond the candidates takes.
  Sample NextFromLogits(std::span<const float> logits, int64_t position) {
    return sampler_.Next(Reduce(logits), logits, position);
  }

  int needed_logits = 0;

 private:
  LogitReduction Reduce(std::span<const float> logits) const {
    static Backend* const ops = MakeCpuBackend({.threads = 1})->release();
    const LogitQuery query = sampler_.query();
    LogitReduction reduced;
    ops->ReduceLogits({logits.data(), 1, std::ssize(logits)}, {&query, 1}, {&reduced, 1});
    return reduced;
  }

  Sampler sampler_;
};

// The distribution of draws over `draws` positions.
std::vector<double> Frequencies(const SamplingParams& params, const std::vector<float>& logits,
                                int draws) {
  std::vector<double> counts(logits.size());
  for (int position = 0; position < draws; ++position) {
    TestedSampler sampler(params, {});
    counts[sampler.Next(logits, position).token] += 1.0 / draws;
  }
  return counts;
}

TEST(SamplerTest, TemperatureZeroTakesTheLargestAndTiesGoToTheLowerId) {
  TestedSampler sampler({}, {});
  EXPECT_EQ(sampler.Next(std::vector<float>{1, 3, 3, 2}, 0).token, 1);
}

TEST(SamplerTest, LogprobIsTheModels) {
  TestedSampler sampler({}, {});
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
  TestedSampler walked(params, {});
  std::vector<TokenId> all;
  for (int position = 0; position < 20; ++position) {
    all.push_back(walked.Next(logits, position).token);
  }
  for (int position = 0; position < 20; ++position) {
    TestedSampler fresh(params, {});
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
  TestedSampler plain({}, {});
  EXPECT_EQ(plain.Next(logits, 0).token, 0);
  EXPECT_EQ(plain.Next(logits, 1).token, 0);
  TestedSampler presence({.presence_penalty = 0.5f}, {});
  EXPECT_EQ(presence.Next(logits, 0).token, 0);
  EXPECT_EQ(presence.Next(logits, 1).token, 1);
  const std::vector<TokenId> context = {0};
  TestedSampler repetition({.repetition_penalty = 1.2f}, context);
  EXPECT_EQ(repetition.Next(logits, 0).token, 1);
}

// --- against the host's sampler ------------------------------------------------------------------

std::vector<float> RandomLogits(std::mt19937_64& random, int64_t vocab, float spread) {
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> logits(vocab);
  for (float& logit : logits) logit = normal(random);
  if (random() % 4 == 0) {  // few distinct values: ties
    for (float& logit : logits) logit = std::round(logit);
  }
  return logits;
}

SamplingParams RandomParams(std::mt19937_64& random) {
  const auto one_of = [&](auto... values) {
    const std::array all = {values...};
    return all[random() % all.size()];
  };
  return {.temperature = one_of(0.0f, 0.3f, 0.8f, 1.0f, 1.0f, 1.7f, 100.0f),
          .top_k = one_of(0, 0, 0, 1, 40, 1024, 1025, 5000),
          .top_p = one_of(1.0f, 1.0f, 0.95f, 0.5f, 1e-6f),
          .min_p = one_of(0.0f, 0.0f, 0.05f, 1e-5f),
          .repetition_penalty = one_of(1.0f, 1.0f, 1.3f, 0.8f),
          .presence_penalty = one_of(0.0f, 0.0f, 0.5f, -1.0f),
          .frequency_penalty = one_of(0.0f, 0.0f, 0.2f, -0.2f),
          .seed = random()};
}

// Sums are added in another order and e^x is off by 2^-46: a draw within so little of the border
// between two tokens could differ. These seeds have none.
TEST(SamplerTest, DrawsTheTokensOfTheHostsSamplerByEitherPath) {
  int compared = 0, needed_logits = 0;
  for (uint64_t seed = 0; seed < 400; ++seed) {
    std::mt19937_64 random(seed);
    const int64_t vocab = std::array{1, 5, 255, 256, 257, 2048, 3000, 9000}[random() % 8];
    const SamplingParams params = RandomParams(random);
    std::vector<TokenId> context(random() % 200), resumed(random() % 20);
    for (TokenId& token : context) token = static_cast<TokenId>(random() % vocab);
    for (TokenId& token : resumed) token = static_cast<TokenId>(random() % vocab);
    HostSampler want(params, context, resumed);
    TestedSampler got(params, context, resumed), from_logits(params, context, resumed);
    for (int64_t position = 0; position < 12; ++position) {
      const float spread = std::array{0.1f, 1.0f, 3.0f, 10.0f}[random() % 4];
      const auto logits = RandomLogits(random, vocab, spread);
      const Sample sample = want.Next(logits, position), drawn = got.Next(logits, position);
      ASSERT_EQ(drawn.token, sample.token) << "seed " << seed << " position " << position;
      ASSERT_EQ(from_logits.NextFromLogits(logits, position).token, sample.token)
          << "seed " << seed << " position " << position;
      // Both round to float once, of sums that agree to 2^-40.
      ASSERT_NEAR(drawn.logprob, sample.logprob, 0x1p-23 * std::abs(sample.logprob) + 0x1p-40)
          << "seed " << seed;
      ++compared;
    }
    needed_logits += got.needed_logits;
  }
  // Both ways were taken, often.
  EXPECT_GT(needed_logits, compared / 20);
  EXPECT_LT(needed_logits, compared / 2);
}

TEST(SamplerTest, LogitsAreAskedForOnlyWhenTheDrawLiesBeyondTheCandidates) {
  std::vector<float> steep(5000), flat(5000, 0.0f);
  for (size_t i = 0; i < steep.size(); ++i) steep[i] = -0.1f * static_cast<float>(i);
  const auto needed = [](const SamplingParams& params, const std::vector<float>& logits) {
    TestedSampler sampler(params, {});
    for (int64_t position = 0; position < 200; ++position) sampler.Next(logits, position);
    return sampler.needed_logits;
  };
  EXPECT_EQ(needed({}, flat), 0);
  EXPECT_EQ(needed({.temperature = 1}, steep), 0);
  EXPECT_EQ(needed({.temperature = 1, .top_p = 0.9f}, steep), 0);
  EXPECT_EQ(needed({.temperature = 1, .top_k = 1024}, flat), 0);
  const std::vector<float> few(Sampler::kUsualCandidates - 1, 0.0f);
  EXPECT_EQ(needed({.temperature = 1, .min_p = 0.5f}, few), 0);
  EXPECT_EQ(needed({.temperature = 1, .top_k = 1025}, flat), 200);
  EXPECT_EQ(needed({.temperature = 1, .top_p = 0.9f}, flat), 200);
  const int some = needed({.temperature = 1}, flat);  // 256 of 5,000 draws of a thousand are within
  EXPECT_GT(some, 150);
  EXPECT_LT(some, 200);
}

TEST(SamplerTest, ADrawThatAskedForLogitsHasCountedNothing) {
  const std::vector<float> flat(5000, 0.0f);
  const SamplingParams params = {.temperature = 1, .top_p = 0.9f, .presence_penalty = 2.0f};
  Sampler sampler(params, {});
  const LogitReduction reduced = {.candidates = {256, LogitCandidate{}}, .sum = 5000, .mass = 5000};
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(sampler.Next(reduced, 0).has_value());
  EXPECT_TRUE(sampler.query().adjustments.empty());
}

TEST(SamplerTest, AnInfiniteLogitIsDrawnAndNanNeverIs) {
  std::vector<float> logits(3000, 1.0f);
  logits[2500] = std::numeric_limits<float>::infinity();
  logits[2000] = logits[0] = NAN;
  for (const float temperature : {0.0f, 1.0f}) {
    TestedSampler sampler({.temperature = temperature}, {});
    for (int position = 0; position < 20; ++position) {
      EXPECT_EQ(sampler.Next(logits, position).token, 2500);
    }
  }
  logits[2500] = 1.0f;
  const auto freq = Frequencies({.temperature = 1.0f}, logits, 3000);
  EXPECT_EQ(freq[0] + freq[2000], 0);
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
