#include "worker/quality/row_allocation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

namespace tailor {
namespace {

using ::testing::ElementsAre;

// The recall of `rows` along a curve whose points are joined by lines.
double ValueAt(const RecallCurve& curve, int32_t rows) {
  for (size_t i = 0; i + 1 < curve.size(); ++i) {
    const auto [x0, y0] = curve[i];
    const auto [x1, y1] = curve[i + 1];
    if (rows >= x0 && rows <= x1) return y0 + (y1 - y0) * (rows - x0) / (x1 - x0);
  }
  return curve.back().second;
}

TEST(RowAllocationTest, RowsGoWhereOneMoreIsWorthMost) {
  const std::vector<RecallCurve> curves = {{{10, 0.5}, {20, 0.9}, {40, 0.95}},
                                           {{10, 0.9}, {20, 0.92}, {40, 0.93}}};
  EXPECT_THAT(*AllocateRows(curves, 20), ElementsAre(10, 10));
  EXPECT_THAT(*AllocateRows(curves, 30), ElementsAre(20, 10));
  EXPECT_THAT(*AllocateRows(curves, 55), ElementsAre(40, 15))
      << "the last segment is taken in part";
}

TEST(RowAllocationTest, ADipOnTheWayDoesNotHideWhatComesAfter) {
  // Measured curves are noisy: the second point is below the first.
  const std::vector<RecallCurve> curves = {{{10, 0.5}, {20, 0.49}, {30, 0.9}},
                                           {{10, 0.5}, {20, 0.55}, {30, 0.6}}};
  EXPECT_THAT(*AllocateRows(curves, 40), ElementsAre(30, 10));
}

TEST(RowAllocationTest, OfEqualsTheLowerLayerComesFirst) {
  const RecallCurve curve = {{10, 0.5}, {20, 0.6}};
  EXPECT_THAT(*AllocateRows(std::vector<RecallCurve>{curve, curve}, 25), ElementsAre(15, 10));
}

TEST(RowAllocationTest, ATotalTheCurvesDoNotReachIsNone) {
  const std::vector<RecallCurve> curves = {{{10, 0.5}, {20, 0.6}}};
  EXPECT_FALSE(AllocateRows(curves, 9).has_value());
  EXPECT_FALSE(AllocateRows(curves, 21).has_value());
  EXPECT_THAT(*AllocateRows(curves, 20), ElementsAre(20));
}

// Concave curves of three layers against every split there is.
TEST(RowAllocationTest, NoSplitOfConcaveCurvesIsBetter) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937_64 random(seed);
    std::vector<RecallCurve> curves;
    for (int layer = 0; layer < 3; ++layer) {
      std::vector<double> gains(6);
      for (double& gain : gains) gain = static_cast<double>(random() % 1000) / 1e4;
      std::sort(gains.rbegin(), gains.rend());
      RecallCurve& curve = curves.emplace_back(RecallCurve{{2, 0.1}});
      for (const double gain : gains) {
        curve.emplace_back(curve.back().first + 2, curve.back().second + gain);
      }
    }
    const int32_t total = 6 + static_cast<int32_t>(random() % 36);
    double best = 0;
    for (int32_t a = 2; a <= 14; ++a) {
      for (int32_t b = 2; b <= 14; ++b) {
        const int32_t c = total - a - b;
        if (c < 2 || c > 14) continue;
        best =
            std::max(best, ValueAt(curves[0], a) + ValueAt(curves[1], b) + ValueAt(curves[2], c));
      }
    }
    const auto rows = AllocateRows(curves, total);
    ASSERT_TRUE(rows.has_value());
    EXPECT_EQ(std::accumulate(rows->begin(), rows->end(), 0), total);
    double got = 0;
    for (int layer = 0; layer < 3; ++layer) got += ValueAt(curves[layer], (*rows)[layer]);
    EXPECT_NEAR(got, best, 1e-12);
  }
}

}  // namespace
}  // namespace tailor
