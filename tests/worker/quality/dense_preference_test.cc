// The score against ALGORITHM §1 as plain loops in double, and the rule that follows from it.
#include "worker/quality/dense_preference.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/worker/quality/attention_case.h"

namespace tailor {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int64_t kContext = 300, kSteps = 12, kTokens = kContext + kSteps;

class DensePreferenceTest : public ::testing::Test {
 protected:
  // kSteps decode steps of a full cache after kContext tokens; step i's query is queries_[i].
  std::vector<double> ScoresOf(const DensePreferenceOptions& options, float query_scale = 1,
                               int threads = 1) {
    CacheRig rig(TestPolicy(), 0, threads);
    auto cache = rig.Open("a", CacheMode::kFull);
    EXPECT_TRUE(cache.ok());
    DensePreferenceProbe probe(rig.ops.get(), rig.pool.shape(), kQHeads, kTokens, options);
    (*cache)->set_probe(&probe);
    DrivenSequence sequence(rig, **cache);
    EXPECT_TRUE(sequence.PrefillTo(kContext).ok());
    EXPECT_TRUE((*cache)->Reserve(kTokens).ok());
    for (int64_t i = 0; i < kSteps; ++i) {
      queries_.push_back(TestQuery(/*seed=*/100 + i));
      HostMatrix& q = queries_.back();
      for (int64_t c = 0; c < q.cols; ++c) q.view()(0, c) *= query_scale;
      EXPECT_TRUE(sequence.Decode(q).ok());
    }
    return probe.Scores();
  }

  // §1: rows of A over the visible keys, the largest floor(alpha * n) of each, one minus their
  // mean.
  double Oracle(int32_t layer, const DensePreferenceOptions& options) const {
    double top_sum = 0;
    for (int64_t i = kSteps - options.last_queries; i < kSteps; ++i) {
      for (auto& row : ExactMasses(queries_[i], layer, kContext + i + 1)) {
        std::sort(row.begin(), row.end(), std::greater<>());
        const auto entries = static_cast<int64_t>(std::floor(options.alpha * kTokens));
        for (int64_t t = 0; t < entries; ++t) top_sum += row[t];
      }
    }
    return 1 - top_sum / static_cast<double>(options.last_queries * kQHeads);
  }

  std::vector<HostMatrix> queries_;
};

TEST_F(DensePreferenceTest, ScoresAreThoseOfTheFormulaInDouble) {
  const DensePreferenceOptions options = {.last_queries = 8, .alpha = 0.05};
  const auto scores = ScoresOf(options);
  ASSERT_EQ(scores.size(), 3u);
  for (int32_t layer = 0; layer < 3; ++layer) {
    const double want = Oracle(layer, options);
    EXPECT_GT(want, 0.01) << "the case must not be trivial";
    // Scores of size s have fp32 errors of head_dim * s * 2^-24: below 1e-4 for s < 20; masses then
    // have relative errors of that size, and their sum is below one.
    EXPECT_NEAR(scores[layer], want, 1e-4) << "layer " << layer;
  }
}

TEST_F(DensePreferenceTest, OnlyTheLastQueriesCount) {
  const DensePreferenceOptions few = {.last_queries = 1}, all = {.last_queries = kSteps};
  const auto last = ScoresOf(few);
  EXPECT_NEAR(last[1], Oracle(1, few), 1e-4);
  EXPECT_GT(std::abs(Oracle(1, few) - Oracle(1, all)), 1e-3) << "they differ, so the choice shows";
}

// A zero query spreads its mass evenly: all but floor(alpha * n) of the row's entries are outside.
TEST_F(DensePreferenceTest, AnEvenRowIsAsDenseAsCanBe) {
  const DensePreferenceOptions options = {.last_queries = 1, .alpha = 0.05};
  const auto scores = ScoresOf(options, /*query_scale=*/0);
  for (const double score : scores) EXPECT_NEAR(score, 1 - 15.0 / kTokens, 1e-6);
}

TEST_F(DensePreferenceTest, ASharpRowIsNotDense) {
  for (const double score : ScoresOf({.last_queries = 4}, /*query_scale=*/50)) {
    EXPECT_LT(score, 1e-3);
  }
}

TEST_F(DensePreferenceTest, TheNumberOfThreadsDoesNotChangeABit) {
  const auto one = ScoresOf({.last_queries = 8}, 1, 1);
  EXPECT_EQ(ScoresOf({.last_queries = 8}, 1, 3), one);
}

TEST(DenseLayersTest, TheRuleTakesScoresAboveTheThresholdLargestFirst) {
  const std::vector<double> scores = {0.5, 0.2, 0.21, 0.9, 0.5};
  EXPECT_THAT(DenseLayers(scores, {.threshold = 0.2}), ElementsAre(3, 0, 4, 2))
      << "0.2 is not above 0.2; of equals the lower layer first";
  EXPECT_THAT(DenseLayers(scores, {.threshold = 0.2, .max_quantized_layers = 2}),
              ElementsAre(3, 0));
  EXPECT_THAT(DenseLayers(scores, {.threshold = 0.9}), IsEmpty());
  EXPECT_THAT(DenseLayers(scores, {.threshold = 0, .max_quantized_layers = 0}), IsEmpty());
}

}  // namespace
}  // namespace tailor
