#include "worker/quality/statistics.h"

#include <gtest/gtest.h>

#include <cmath>

namespace tailor {
namespace {

TEST(StatisticsTest, ASpreadIsMeanAndStandardErrorOfTheMean) {
  const Spread spread = SpreadOf(std::vector<double>{1, 2, 3, 6});
  EXPECT_DOUBLE_EQ(spread.mean, 3);
  // s^2 = (4 + 1 + 0 + 9) / 3; the error of a mean of four is s / 2.
  ASSERT_TRUE(spread.standard_error.has_value());
  EXPECT_NEAR(*spread.standard_error, std::sqrt(14.0 / 3) / 2, 1e-12);
}

TEST(StatisticsTest, ASingleValueHasNoStandardError) {
  EXPECT_FALSE(SpreadOf(std::vector<double>{5}).standard_error.has_value());
}

TEST(StatisticsTest, GroupsWeighAlikeWhateverTheirSize) {
  const Estimate e = BootstrapMean(std::vector<std::vector<double>>{{1, 1, 1, 1, 1, 1}, {0, 0}});
  EXPECT_DOUBLE_EQ(e.mean, 0.5);
  EXPECT_DOUBLE_EQ(e.interval->low, 0.5);  // no group varies in itself
  EXPECT_DOUBLE_EQ(e.interval->high, 0.5);
}

TEST(StatisticsTest, AGroupOfOneValueGivesNoInterval) {
  const Estimate e = BootstrapMean(std::vector<std::vector<double>>{{1, 0, 1}, {0.5}});
  EXPECT_NEAR(e.mean, (2.0 / 3 + 0.5) / 2, 1e-12);
  EXPECT_FALSE(e.interval.has_value());
}

TEST(StatisticsTest, ManyItemsGiveTheNormalApproximationsInterval) {
  std::vector<double> values(400, 0.0);
  for (int i = 0; i < 100; ++i) values[i] = 1;
  const Estimate e = BootstrapMean(std::vector<std::vector<double>>{values});
  const double half = 1.96 * std::sqrt(0.25 * 0.75 / 400);
  // A resampled mean moves in steps of 1/400; the quantile of 10,000 draws has an error of some
  // sqrt(0.025 * 0.975 / 1e4) / density(1.96) = 0.027 standard deviations: far below one step.
  EXPECT_NEAR(e.interval->low, 0.25 - half, 1.5 / 400);
  EXPECT_NEAR(e.interval->high, 0.25 + half, 1.5 / 400);
}

TEST(StatisticsTest, EqualValuesGiveEqualIntervals) {
  const std::vector<std::vector<double>> groups = {{0, 1, 0.5, 1}, {0.25, 0.75, 1}};
  const Estimate a = BootstrapMean(groups), b = BootstrapMean(groups);
  EXPECT_EQ(a.interval->low, b.interval->low);
  EXPECT_EQ(a.interval->high, b.interval->high);
  EXPECT_LT(a.interval->low, a.mean);
  EXPECT_GT(a.interval->high, a.mean);
}

}  // namespace
}  // namespace tailor
