// Codes and parameters of a page against a computation of their own, value by value, from the text
// of quantized_page.h and quantize_page.h.
#include "worker/ops/quantize_page.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/worker/ops/op_test.h"
#include "worker/ops/cpu_kernels.h"
#include "worker/ops/reference.h"

namespace tailor {
namespace {

constexpr float kLargestBFloat16 = 0x1.fep127f;

using Rows = std::vector<BFloat16>;  // [kPageTokens][2][head_dim]

std::vector<std::byte> Quantize(const Rows& rows, const QuantizedPageShape& shape) {
  std::vector<std::byte> page(shape.PageBytes(), std::byte{0xa5});
  QuantizePageRef(rows.data(), shape, page.data());
  return page;
}

uint16_t HalfWord(const std::vector<std::byte>& page, int64_t byte) {
  uint16_t value;
  std::memcpy(&value, page.data() + byte, sizeof(value));
  return value;
}

// Where the code and the parameters of K or V of (token, channel) lie.
struct Place {
  int64_t codes, params, index;  // bytes of the block's codes and params; the value's number in it
};
Place PlaceOf(const QuantizedPageShape& s, bool value, int64_t token, int64_t channel) {
  const int64_t codes = int64_t{kPageTokens} * s.head_dim * s.bits / 8;
  const int64_t params = int64_t{kPageTokens} * s.head_dim / 64 * 4;
  const int64_t start = value ? codes + params : 0;
  return {start, start + codes,
          value ? token * s.head_dim + channel : channel * kPageTokens + token};
}

int CodeOf(const std::vector<std::byte>& page, const QuantizedPageShape& s, const Place& place) {
  int code = 0;
  for (int bit = 0; bit < s.bits; ++bit) {
    const int64_t word = place.index / 16 * s.bits + bit;
    code += (HalfWord(page, place.codes + 2 * word) >> place.index % 16 & 1) * (1 << bit);
  }
  return code;
}
float ParamOf(const std::vector<std::byte>& page, const Place& place, int which) {
  const int64_t word = place.index / 64 * 2 + which;
  return ToFloat(BFloat16{HalfWord(page, place.params + 2 * word)});
}

// The 64 values that share parameters with (token, channel).
std::vector<float> GroupOf(const Rows& rows, int32_t d, bool value, int64_t token,
                           int64_t channel) {
  std::vector<float> group;
  for (int64_t i = 0; i < 64; ++i) {
    const int64_t t = value ? token : token / 64 * 64 + i;
    const int64_t c = value ? channel / 64 * 64 + i : channel;
    group.push_back(ToFloat(rows[t * 2 * d + (value ? d : 0) + c]));
  }
  return group;
}

struct Group {
  float low, high;
};
Group RangeOf(const std::vector<float>& group) {
  const auto [low, high] = std::minmax_element(group.begin(), group.end());
  return {*low, *high};
}

// In fp32, as quantized_page.h states it.
void ExpectExactCodes(const Rows& rows, const QuantizedPageShape& s) {
  const std::vector<std::byte> page = Quantize(rows, s);
  const int32_t d = s.head_dim;
  const int top = (1 << s.bits) - 1;
  for (const bool value : {false, true}) {
    for (int64_t t = 0; t < kPageTokens; ++t) {
      for (int64_t c = 0; c < d; ++c) {
        const Place place = PlaceOf(s, value, t, c);
        const Group range = RangeOf(GroupOf(rows, d, value, t, c));
        const float scale = ToFloat(ToBFloat16((range.high - range.low) / static_cast<float>(top)));
        ASSERT_EQ(ParamOf(page, place, 0), range.low) << "the minimum is a bf16 already";
        ASSERT_EQ(ParamOf(page, place, 1), scale);
        const float x = ToFloat(rows[t * 2 * d + (value ? d : 0) + c]);
        const float steps = scale > 0 ? (x - range.low) / scale : 0;
        const int want = std::min(top, static_cast<int>(std::lrint(steps)));  // ties to even
        ASSERT_EQ(CodeOf(page, s, place), want)
            << (value ? "V" : "K") << " of token " << t << " channel " << c;
      }
    }
  }
}

// The bound of quantize_page.h.
void ExpectWithinBound(const Rows& rows, const QuantizedPageShape& s) {
  const std::vector<std::byte> page = Quantize(rows, s);
  HostMatrix back(kPageTokens, 2 * s.head_dim);
  DequantizePageRef(page.data(), s, back.view());
  const double top = (1 << s.bits) - 1;
  for (int64_t t = 0; t < kPageTokens; ++t) {
    for (int64_t c = 0; c < 2 * s.head_dim; ++c) {
      const bool value = c >= s.head_dim;
      const Place place = PlaceOf(s, value, t, c % s.head_dim);
      const double min = ParamOf(page, place, 0), scale = ParamOf(page, place, 1);
      const double x = ToFloat(rows[t * 2 * s.head_dim + c]);
      const double bound = scale / 2 + (std::abs(min) + top * scale) * 0x1p-8 + top * 0x1p-134;
      ASSERT_TRUE(std::abs(back.row(t)[c] - x) <= bound)
          << "token " << t << " element " << c << ": " << back.row(t)[c] << " for " << x
          << ", bound " << bound;
    }
  }
}

Rows Fill(int32_t head_dim, std::mt19937_64& random, float (*value)(std::mt19937_64&)) {
  Rows rows(int64_t{kPageTokens} * 2 * head_dim);
  for (BFloat16& element : rows) element = ToBFloat16(value(random));
  return rows;
}
float Normal(std::mt19937_64& random) { return std::normal_distribution<float>(0, 1)(random); }
// Every finite bf16 between 2^-100 and 2^100, of either sign.
float WideRange(std::mt19937_64& random) {
  return std::ldexp(Normal(random), static_cast<int>(random() % 201) - 100);
}
// Halves: many values fall midway between two codes.
float Halves(std::mt19937_64& random) { return static_cast<float>(random() % 31) * 0.5f - 7; }
float Denormal(std::mt19937_64& random) {
  return std::bit_cast<float>(static_cast<uint32_t>(random() & 0x807f0000u));
}
// So near zero that 255 steps are smaller than the smallest bf16: the scale itself becomes 0.
float NearlyZero(std::mt19937_64& random) {
  return std::bit_cast<float>(static_cast<uint32_t>(random() & 0x803f0000u));
}
float SignedZero(std::mt19937_64& random) { return random() % 2 == 0 ? 0.0f : -0.0f; }
// The widest range a group may have: from nothing to the largest bf16.
float ZeroOrLargest(std::mt19937_64& random) { return random() % 2 == 0 ? 0 : kLargestBFloat16; }
float Largest(std::mt19937_64&) { return kLargestBFloat16; }

TEST(QuantizePageTest, CodesAndParametersEqualAnIndependentComputation) {
  std::mt19937_64 random(1);
  for (const int32_t bits : {1, 2, 4, 8}) {
    for (const int32_t head_dim : {64, 128}) {
      for (const auto value :
           {Normal, WideRange, Halves, Denormal, NearlyZero, SignedZero, ZeroOrLargest}) {
        SCOPED_TRACE(absl::StrCat(bits, " bits, head_dim ", head_dim));
        ExpectExactCodes(Fill(head_dim, random, value), {.bits = bits, .head_dim = head_dim});
      }
    }
  }
}

TEST(QuantizePageTest, EveryValueComesBackWithinTheDocumentedBound) {
  std::mt19937_64 random(2);
  for (const int32_t bits : {1, 2, 4, 8}) {
    for (const auto value :
         {Normal, WideRange, Halves, Denormal, NearlyZero, SignedZero, ZeroOrLargest, Largest}) {
      SCOPED_TRACE(absl::StrCat(bits, " bits"));
      ExpectWithinBound(Fill(64, random, value), {.bits = bits, .head_dim = 64});
    }
  }
}

TEST(QuantizePageTest, AConstantGroupComesBackExactly) {
  for (const int32_t bits : {1, 2, 4, 8}) {
    for (const float value : {0.0f, -0.0f, 1.0f, -3.140625f, kLargestBFloat16, -kLargestBFloat16,
                              0x1p-133f, -0x1p-126f}) {
      const QuantizedPageShape shape = {.bits = bits, .head_dim = 64};
      const Rows rows(kPageTokens * 2 * 64, ToBFloat16(value));
      HostMatrix back(kPageTokens, 2 * 64);
      DequantizePageRef(Quantize(rows, shape).data(), shape, back.view());
      for (const float x : back.values) ASSERT_EQ(x, ToFloat(rows[0])) << value;
    }
  }
}

// Two values only: one bit keeps both, whatever they are.
TEST(QuantizePageTest, OneBitKeepsBothEndsOfAGroup) {
  const QuantizedPageShape shape = {.bits = 1, .head_dim = 64};
  Rows rows(kPageTokens * 2 * 64);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = ToBFloat16(i % 3 == 0 ? -1.5f : 2.5f);
  HostMatrix back(kPageTokens, 2 * 64);
  DequantizePageRef(Quantize(rows, shape).data(), shape, back.view());
  for (size_t i = 0; i < rows.size(); ++i) ASSERT_EQ(back.values[i], ToFloat(rows[i]));
}

TEST(QuantizePageTest, APageIsAsLargeAsItsBitsAndParametersSay) {
  // 128 tokens x 64 channels, K and V: 2 bits a value, 4 bytes a group of 64.
  EXPECT_EQ((QuantizedPageShape{.bits = 2, .head_dim = 64}.PageBytes()), 2 * (2048 + 512));
  EXPECT_EQ((QuantizedPageShape{.bits = 8, .head_dim = 128}.PageBytes()), 2 * (16384 + 1024));
}

class QuantizeOpTest : public OpTest {};
INSTANTIATE_AT_EVERY_SIMD_LEVEL(QuantizeOpTest);

TEST_P(QuantizeOpTest, TheBackendsPageIsTheReferencesByteForByte) {
  std::mt19937_64 random(3);
  for (const int32_t bits : {1, 2, 4, 8}) {
    const QuantizedPageShape shape = {.bits = bits, .head_dim = 128};
    const Rows rows = Fill(128, random, Normal);
    const DeviceBuffer source = *ops_->Allocate(static_cast<int64_t>(rows.size() * 2));
    const DeviceBuffer page = *ops_->Allocate(shape.PageBytes());
    ops_->Upload(std::as_bytes(std::span(rows)), source.data());
    const std::vector<std::byte> poison(shape.PageBytes(), std::byte{0xff});
    ops_->Upload(poison, page.data());
    ops_->QuantizePage(source.As<BFloat16>(), shape, page.data());
    std::vector<std::byte> got(shape.PageBytes());
    ops_->Download(page.data(), got);
    EXPECT_EQ(got, Quantize(rows, shape)) << bits;
  }
}

// A backend's own decoding, seen through its kernels: the tile it attends to.
TEST_P(QuantizeOpTest, AnAttendedPageHasTheReferencesValuesExactly) {
  std::mt19937_64 random(4);
  for (const int32_t bits : {1, 2, 4, 8}) {
    for (const int32_t d : {64, 128}) {
      const QuantizedPageShape shape = {.bits = bits, .head_dim = d};
      const std::vector<std::byte> page = Quantize(Fill(d, random, WideRange), shape);
      HostMatrix want(kPageTokens, 2 * d);
      DequantizePageRef(page.data(), shape, want.view());
      std::vector<float> keys(d * kKeyStride), values(d * kTileTokens);
      KvTile tile = {.keys = keys.data(), .values = values.data(), .tokens = 0, .rows = nullptr};
      KernelsFor(GetParam()).load_page(page.data(), shape, &tile);
      ASSERT_EQ(tile.tokens, kPageTokens);
      for (int64_t t = 0; t < kPageTokens; ++t) {
        for (int64_t c = 0; c < d; ++c) {
          ASSERT_EQ(keys[c * kKeyStride + t], want.row(t)[c]) << bits << " bits";
          ASSERT_EQ(values[t * d + c], want.row(t)[d + c]) << bits << " bits";
        }
      }
    }
  }
}

}  // namespace
}  // namespace tailor
