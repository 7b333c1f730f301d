// The oracles themselves, against numbers worked out by hand.
#include "worker/ops/reference.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "worker/ops/half.h"

namespace tailor {
namespace {

using ::testing::ElementsAre;
using ::testing::FloatEq;

// One block of a format: header halves, then quants.
std::vector<std::byte> Block(std::vector<uint16_t> headers, std::vector<int> quants) {
  std::vector<std::byte> bytes;
  for (const uint16_t header : headers) {
    bytes.push_back(static_cast<std::byte>(header & 255));
    bytes.push_back(static_cast<std::byte>(header >> 8));
  }
  for (const int quant : quants) bytes.push_back(static_cast<std::byte>(quant));
  return bytes;
}
constexpr uint16_t kHalfOfOne = 0x3c00, kHalfOfMinusTwo = 0xc000, kHalfOfHalf = 0x3800;

std::vector<float> Dequantize(DType dtype, int64_t cols, const std::vector<std::byte>& bytes) {
  return DequantizeRef({.name = "", .dtype = dtype, .rows = 1, .cols = cols, .bytes = bytes});
}

TEST(ReferenceTest, EveryHalfIsTheValueIeeeGivesIt) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const int exponent = static_cast<int>(bits >> 10 & 31),
              mantissa = static_cast<int>(bits & 1023);
    const float got = HalfToFloat(static_cast<uint16_t>(bits));
    ASSERT_EQ(std::signbit(got), bits >> 15 != 0) << bits;
    if (exponent == 31) {
      ASSERT_EQ(std::isnan(got), mantissa != 0) << bits;
      ASSERT_EQ(std::isinf(got), mantissa == 0) << bits;
      continue;
    }
    const double want =
        exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    ASSERT_EQ(std::abs(got), want) << bits;
  }
}

TEST(ReferenceTest, PlainFormatsAreReadAsTheyAre) {
  EXPECT_THAT(Dequantize(DType::kF16, 2, Block({kHalfOfHalf, kHalfOfMinusTwo}, {})),
              ElementsAre(0.5f, -2.0f));
  EXPECT_THAT(Dequantize(DType::kBF16, 2, Block({0x3fc0, 0xc040}, {})), ElementsAre(1.5f, -3.0f));
  EXPECT_THAT(Dequantize(DType::kF32, 1, Block({0x0000, 0x4020}, {})), ElementsAre(2.5f));
}

TEST(ReferenceTest, BlocksFollowTheirFormulas) {
  std::vector<int> bytes(32, 0);
  bytes[0] = 127;
  bytes[31] = -128;
  const auto q8 = Dequantize(DType::kQ8_0, 32, Block({kHalfOfHalf}, bytes));
  EXPECT_EQ(q8[0], 63.5f);
  EXPECT_EQ(q8[1], 0.0f);
  EXPECT_EQ(q8[31], -64.0f);

  std::vector<int> nibbles(16, 0x88);
  nibbles[0] = 0x1f;   // q[0] = 15, q[16] = 1
  nibbles[15] = 0xf0;  // q[15] = 0, q[31] = 15
  const auto q4 = Dequantize(DType::kQ4_0, 32, Block({kHalfOfMinusTwo}, nibbles));
  EXPECT_EQ(q4[0], -14.0f);
  EXPECT_EQ(q4[16], 14.0f);
  EXPECT_EQ(q4[1], 0.0f);
  EXPECT_EQ(q4[15], 16.0f);
  EXPECT_EQ(q4[31], -14.0f);

  const auto q41 = Dequantize(DType::kQ4_1, 32, Block({kHalfOfHalf, kHalfOfOne}, nibbles));
  EXPECT_EQ(q41[0], 8.5f);
  EXPECT_EQ(q41[16], 1.5f);
  EXPECT_EQ(q41[15], 1.0f);
}

std::vector<std::byte> FromHex(const std::string& hex) {
  std::vector<std::byte> bytes;
  for (size_t i = 0; i < hex.size(); i += 2) {
    bytes.push_back(static_cast<std::byte>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

TEST(ReferenceTest, EveryBlockFormatHasTheValuesOfGgufsOwnReader) {
  std::ifstream file(TAILOR_SOURCE_DIR "/tests/golden/dequantize/golden.json");
  const auto golden = nlohmann::json::parse(file);
  const DType formats[] = {DType::kQ8_0, DType::kQ4_0, DType::kQ4_1, DType::kQ4_K, DType::kQ6_K};
  ASSERT_EQ(golden["formats"].size(), std::size(formats));
  for (size_t i = 0; i < std::size(formats); ++i) {
    const DType dtype = formats[i];
    const auto& entry = golden["formats"][i];
    ASSERT_EQ(entry["name"], DTypeName(dtype));
    const auto got = Dequantize(dtype, entry["cols"], FromHex(entry["bytes"]));
    const auto bytes = FromHex(entry["values"]);
    std::vector<float> want(bytes.size() / sizeof(float));
    std::memcpy(want.data(), bytes.data(), bytes.size());
    EXPECT_EQ(got, want) << DTypeName(dtype);
  }
}

TEST(ReferenceTest, NormAndProductsFollowTheirEquations) {
  std::vector<float> x = {3, -4}, gain = {1, 2}, out(2);
  RmsNormRef({x.data(), 1, 2}, gain, 0, {out.data(), 1, 2});
  EXPECT_THAT(out, ElementsAre(FloatEq(3 / std::sqrt(12.5f)), FloatEq(-8 / std::sqrt(12.5f))));

  std::vector<float> w = {1, 2, -1, 0.5f};  // [2][2]
  MatMulRef({x.data(), 1, 2}, {w.data(), 2, 2}, {out.data(), 1, 2});
  EXPECT_THAT(out, ElementsAre(-5.0f, -5.0f));
  MatMulAddRef({x.data(), 1, 2}, {w.data(), 2, 2}, {out.data(), 1, 2});
  EXPECT_THAT(out, ElementsAre(-10.0f, -10.0f));
  SwiGluRef({x.data(), 1, 2}, {w.data(), 2, 2}, {w.data(), 2, 2}, {out.data(), 1, 2});
  const float silu = -5 / (1 + std::exp(5.0f));
  EXPECT_THAT(out, ElementsAre(FloatEq(-5 * silu), FloatEq(-5 * silu)));
}

TEST(ReferenceTest, RopeTurnsPairsOfEitherLayoutByPositionTimesFrequency) {
  LlamaHyperparameters model;
  model.head_dim = 4;
  model.rope_theta = 100;  // frequencies 1 and 1/10
  const int32_t position = 3;
  std::vector<float> x = {1, 2, 0, 0};
  model.rope_layout = RopeLayout::kHalf;  // pairs (0, 2) and (1, 3)
  RopeRef(std::span(&position, 1), model, {x.data(), 1, 4});
  EXPECT_THAT(x, ElementsAre(FloatEq(std::cos(3.0f)), FloatEq(2 * std::cos(0.3f)),
                             FloatEq(std::sin(3.0f)), FloatEq(2 * std::sin(0.3f))));
  x = {1, 0, 2, 0};
  model.rope_layout = RopeLayout::kInterleaved;  // pairs (0, 1) and (2, 3)
  RopeRef(std::span(&position, 1), model, {x.data(), 1, 4});
  EXPECT_THAT(x, ElementsAre(FloatEq(std::cos(3.0f)), FloatEq(std::sin(3.0f)),
                             FloatEq(2 * std::cos(0.3f)), FloatEq(2 * std::sin(0.3f))));
}

// Llama 3.1's own numbers: the fastest pair keeps its wavelength, the slowest is stretched 8-fold,
// pair 29 (3.4 turns) lies between.
TEST(ReferenceTest, Llama3ScalingStretchesOnlyLongWavelengths) {
  LlamaHyperparameters model;
  model.head_dim = 128;
  model.rope_theta = 500000;
  model.rope_scaling = {.kind = RopeScaling::Kind::kLlama3,
                        .factor = 8,
                        .low_freq_factor = 1,
                        .high_freq_factor = 4,
                        .original_context = 8192};
  const std::vector<float> factors =
      RopeFrequencyFactors(model.rope_scaling, model.rope_theta, model.head_dim);
  const int32_t position = 1;
  for (const int i : {0, 20, 29, 33, 40, 63}) {
    std::vector<float> x(128, 0.0f);
    x[i] = 1;
    RopeRef(std::span(&position, 1), model, {x.data(), 1, 128});
    const double angle = std::pow(500000.0, -2.0 * i / 128) / factors[i];
    EXPECT_FLOAT_EQ(x[64 + i], static_cast<float>(std::sin(angle))) << i;
  }
  EXPECT_EQ(factors[0], 1.0f);
  EXPECT_GT(factors[29], 1.0f);
  EXPECT_LT(factors[29], 8.0f);
  EXPECT_EQ(factors[63], 8.0f);
}

std::vector<BFloat16> Rows(std::vector<float> values) {
  std::vector<BFloat16> rows;
  for (const float value : values) rows.push_back(ToBFloat16(value));
  return rows;
}

// Scores 0 and ln 3 over d = 4 (scale 1/2): weights 1/4 and 3/4.
TEST(ReferenceTest, AttentionIsOneSoftmaxOverTheVisibleTokens) {
  const auto rows = Rows({0, 0, 0, 0, /*v*/ 4, 0, 0, 8, /*token 1*/ 2, 0, 0, 0, /*v*/ 0, 4, 0, 8});
  const RowSegment segments[] = {{rows.data(), 1}, {rows.data() + 8, 1}};
  const std::span<const RowSegment> heads[] = {segments};
  std::vector<float> q = {1, 0, 0, 0, std::log(3.0f), 0, 0, 0}, out(8), lse(2);
  AttendRef({.q = {q.data(), 2, 4},
             .segments = heads,
             .head_dim = 4,
             .mask = Mask::kCausal,
             .out = {out.data(), 2, 4},
             .lse = {lse.data(), 2, 1}});
  EXPECT_THAT(out, ElementsAre(4, 0, 0, 8, FloatEq(1), FloatEq(3), 0, FloatEq(8)));
  EXPECT_NEAR(lse[0], 0, 1e-7);
  EXPECT_FLOAT_EQ(lse[1], std::log(4.0f));
}

// The row counts as 3 tokens of score 0: weights 1/4 and 3/4.
TEST(ReferenceTest, AMeanRowStandsForItsTokensInTheOutputAndNotInTheLogSum) {
  const auto rows = Rows({0, 0, 0, 0, 4, 0, 0, 8}), mean = Rows({0, 0, 0, 0, 0, 4, 0, 8});
  const RowSegment segment = {rows.data(), 1}, stand_in = {mean.data(), 1};
  const std::span<const RowSegment> heads[] = {{&segment, 1}}, means[] = {{&stand_in, 1}};
  std::vector<float> q = {1, 2, 3, 4}, out(4), lse(1);
  AttendRef({.q = {q.data(), 1, 4},
             .segments = heads,
             .head_dim = 4,
             .mask = Mask::kNone,
             .out = {out.data(), 1, 4},
             .lse = {lse.data(), 1, 1},
             .means = means,
             .mean_log_weight = std::log(3.0f)});
  EXPECT_THAT(out, ElementsAre(FloatEq(1), FloatEq(3), 0, FloatEq(8)));
  EXPECT_NEAR(lse[0], 0, 1e-7);
}

}  // namespace
}  // namespace tailor
