#include "common/bfloat16.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace tailor {
namespace {

TEST(BFloat16Test, EveryValueRoundTrips) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const BFloat16 value{static_cast<uint16_t>(bits)};
    if (std::isnan(ToFloat(value))) continue;
    EXPECT_EQ(ToBFloat16(ToFloat(value)), value) << bits;
  }
}

TEST(BFloat16Test, TiesRoundToEven) {
  EXPECT_EQ(ToFloat(ToBFloat16(1.0f + 0x1p-8f)), 1.0f);
  EXPECT_EQ(ToFloat(ToBFloat16(1.0f + 0x3p-8f)), 1.0f + 0x4p-8f);
}

TEST(BFloat16Test, NanStaysNan) {
  EXPECT_TRUE(std::isnan(ToFloat(ToBFloat16(std::numeric_limits<float>::quiet_NaN()))));
}

}  // namespace
}  // namespace tailor
