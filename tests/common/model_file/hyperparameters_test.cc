#include "common/model_file/hyperparameters.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <numbers>
#include <string>

namespace tailor {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

LlamaHyperparameters Good() {
  LlamaHyperparameters m;
  m.layers = 2;
  m.hidden = 16;
  m.q_heads = 4;
  m.kv_heads = 2;
  m.head_dim = 4;
  m.ffn_hidden = 24;
  m.vocab = 100;
  m.context_tokens = 512;
  return m;
}

std::string ErrorAfter(const std::function<void(LlamaHyperparameters&)>& change) {
  LlamaHyperparameters m = Good();
  change(m);
  const absl::Status status = m.Validate();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  return std::string(status.message());
}

TEST(Hyperparameters, SaneOnesAreValid) { EXPECT_TRUE(Good().Validate().ok()); }

TEST(Hyperparameters, EverySizeHasNamedLimits) {
  EXPECT_THAT(ErrorAfter([](auto& m) { m.layers = 0; }),
              HasSubstr("layer count is 0, must be from 1 to 1024"));
  EXPECT_THAT(ErrorAfter([](auto& m) { m.layers = 1025; }), HasSubstr("layer count is 1025"));
  EXPECT_THAT(ErrorAfter([](auto& m) { m.hidden = -1; }), HasSubstr("hidden size is -1"));
  EXPECT_THAT(ErrorAfter([](auto& m) { m.hidden = (1 << 20) + 1; }), HasSubstr("1048576"));
  EXPECT_THAT(ErrorAfter([](auto& m) { m.q_heads = 0; }), HasSubstr("query head count is 0"));
  EXPECT_THAT(ErrorAfter([](auto& m) { m.kv_heads = 5; }),
              HasSubstr("kv head count is 5, must be from 1 to 4"));
  EXPECT_THAT(ErrorAfter([](auto& m) { m.kv_heads = 3; }),
              AllOf(HasSubstr("4 query heads"), HasSubstr("3 kv heads")));
  EXPECT_THAT(ErrorAfter([](auto& m) { m.head_dim = 5; }),
              HasSubstr("head_dim is 5, must be even"));
  EXPECT_THAT(ErrorAfter([](auto& m) { m.head_dim = 1026; }), HasSubstr("from 2 to 1024"));
  EXPECT_THAT(ErrorAfter([](auto& m) { m.ffn_hidden = 0; }), HasSubstr("ffn hidden size is 0"));
  EXPECT_THAT(ErrorAfter([](auto& m) { m.vocab = (1 << 24) + 1; }),
              HasSubstr("vocabulary is 16777217"));
  EXPECT_THAT(ErrorAfter([](auto& m) { m.context_tokens = 0; }), HasSubstr("context is 0"));
  EXPECT_THAT(ErrorAfter([](auto& m) { m.context_tokens = int64_t{1} << 40; }),
              HasSubstr("2147483648"));
}

TEST(Hyperparameters, FloatsAreFiniteAndInRange) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (const float theta : {kNan, kInf, -kInf, 0.0f, -10000.0f, 1e13f}) {
    EXPECT_THAT(ErrorAfter([&](auto& m) { m.rope_theta = theta; }), HasSubstr("rope theta is"));
  }
  for (const float eps : {kNan, kInf, -1e-6f, 1.5f}) {
    EXPECT_THAT(ErrorAfter([&](auto& m) { m.rms_eps = eps; }), HasSubstr("rms epsilon is"));
  }
}

TEST(Hyperparameters, ScalingIsCheckedWhenThereIsAny) {
  using Kind = RopeScaling::Kind;
  LlamaHyperparameters unused = Good();
  unused.rope_scaling.factor = -1;
  EXPECT_TRUE(unused.Validate().ok()) << "kNone";
  EXPECT_THAT(ErrorAfter([](auto& m) { m.rope_scaling = {.kind = Kind::kLinear, .factor = 0.5f}; }),
              HasSubstr("rope scaling factor is 0.5"));
  EXPECT_THAT(ErrorAfter([](auto& m) {
                m.rope_scaling = {.kind = Kind::kLlama3, .factor = 8, .low_freq_factor = 4};
              }),
              AllOf(HasSubstr("high_freq_factor is 4"), HasSubstr("low_freq_factor 4")));
  EXPECT_THAT(ErrorAfter([](auto& m) {
                m.rope_scaling = {.kind = Kind::kLlama3, .factor = 8, .original_context = 0};
              }),
              HasSubstr("original context is 0"));
}

TEST(RopeFrequencyFactors, NoneAndLinearAreConstant) {
  for (const float factor : RopeFrequencyFactors({}, 10000, 64)) EXPECT_EQ(factor, 1);
  const RopeScaling linear{.kind = RopeScaling::Kind::kLinear, .factor = 4};
  EXPECT_EQ(RopeFrequencyFactors(linear, 10000, 64), std::vector<float>(32, 4.0f));
}

// Llama 3.1 8B's numbers, by the formula written out per wavelength instead of per turn.
TEST(RopeFrequencyFactors, Llama3StretchesLongWavelengthsOnly) {
  const RopeScaling scaling{.kind = RopeScaling::Kind::kLlama3, .factor = 8};
  const auto factors = RopeFrequencyFactors(scaling, 500000, 128);
  ASSERT_EQ(factors.size(), 64u);
  for (int i = 0; i < 64; ++i) {
    const double wavelength = 2 * std::numbers::pi * std::pow(500000.0, 2.0 * i / 128);
    double want = 1;
    if (wavelength > 8192.0 / 1) {
      want = 8;
    } else if (wavelength >= 8192.0 / 4) {
      const double smooth = (8192.0 / wavelength - 1) / (4 - 1);
      want = 1 / ((1 - smooth) / 8 + smooth);
    }
    // One rounding to float, after a few in double.
    EXPECT_NEAR(factors[i], want, want * std::numeric_limits<float>::epsilon()) << i;
  }
  EXPECT_EQ(factors[0], 1);
  EXPECT_EQ(factors[63], 8);
}

}  // namespace
}  // namespace tailor
