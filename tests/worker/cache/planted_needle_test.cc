// Attention planted where it is known, through store, selection and self-check: what the meter says
// is the truth in double, and below the floor the budget grows until the needle is fetched.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tests/worker/cache/cache_rig.h"

namespace tailor {
namespace {

constexpr int64_t kPrompt = 600;
constexpr int64_t kNeedle = 100;
constexpr int kNeedleChannel = 30;

// Channels 0 and 1 have the largest keys, the same for every token, and so are the two that a
// selection of two channels takes; they tell it nothing. All that differs lies in channel 30:
// `needle` at the needle, 0 elsewhere. Scores / sqrt(64): -20, and needle_key * 8 more.
struct Plant {
  float needle_key;

  std::vector<BFloat16> Row(int64_t position) const {
    std::vector<BFloat16> row(kRowElements, ToBFloat16(0));
    row[0] = row[1] = ToBFloat16(-10);
    if (position == kNeedle) row[kNeedleChannel] = ToBFloat16(needle_key);
    row[kHeadDim + position % kHeadDim] = ToBFloat16(1);
    return row;
  }
  static HostMatrix Query() {
    HostMatrix q(1, kQHeads * kHeadDim);
    for (int head = 0; head < kQHeads; ++head) {
      q.values[head * kHeadDim] = q.values[head * kHeadDim + 1] = 8;
      q.values[head * kHeadDim + kNeedleChannel] = 64;
    }
    return q;
  }
  // Of a step that attends to `others` tokens beside the needle, if to that, of `tokens` in all.
  double Captured(bool needle, int64_t others, int64_t tokens) const {
    const double weight = std::exp(8.0 * ToFloat(ToBFloat16(needle_key)));
    return (static_cast<double>(others) + (needle ? weight : 0)) /
           (static_cast<double>(tokens - 1) + weight);
  }
};

LayerPolicy Policy(float mass_floor) {
  LayerPolicy policy = TestPolicy();
  policy.select = {.channels = 2,
                   .top_k = 8,
                   .sink_tokens = policy.sink_tokens,
                   .group = GroupRule::kHeads,
                   .rescore_extra = 0};
  policy.check_every_tokens = 1;
  policy.mass_floor = mass_floor;
  return policy;
}

class PlantedNeedleTest : public ::testing::Test {
 protected:
  void Prefill(const LayerPolicy& policy, const Plant& plant) {
    plant_ = plant;
    rig_ = std::make_unique<CacheRig>(policy);
    cache_ = *rig_->Open("s", CacheMode::kHybrid);
    ASSERT_TRUE(cache_->Reserve(kPrompt + 100).ok());
    for (int32_t layer = 0; layer < 3; ++layer) {
      for (int64_t t = 0; t < kPrompt; ++t) Write(layer, t);
      ASSERT_TRUE(cache_->ExtendLayer(layer, kPrompt).ok());
    }
    ASSERT_TRUE(cache_->CommitPrefill(KnownTokens(1, kPrompt)).ok());
  }
  // One token; what its checks found.
  CheckTotals Step() {
    const DeviceMatrix q(*rig_->ops, Plant::Query()), out(*rig_->ops, 1, kQHeads * kHeadDim);
    for (int32_t layer = 0; layer < 3; ++layer) {
      if (cache_->Fetches(layer)) {
        EXPECT_TRUE(cache_->PostFetch(layer, q.view().row(0)).ok());
      }
      std::vector<BFloat16*> store(kHeads), window(kHeads);
      cache_->NewRows(layer, store, window);
      const std::vector<BFloat16> row = plant_.Row(cache_->tokens());
      for (int32_t head = 0; head < kHeads; ++head) {
        std::copy(row.begin(), row.end(), store[head]);
        rig_->ops->Upload(std::as_bytes(std::span(row)), window[head]);
      }
      EXPECT_TRUE(cache_->Attend(layer, q.view(), out.view()).ok());
    }
    EXPECT_TRUE(cache_->CommitToken(7).ok());
    return cache_->TakeChecks();
  }
  // Sealed: 512 tokens less the window of 128; all ties go to the lowest tokens.
  double Truth(int64_t tokens, int64_t rows) const {
    const int64_t sealed = (tokens - 1 - 128) / kPageTokens * kPageTokens;
    const bool needle = kNeedle < 8 + rows;
    return plant_.Captured(needle, 8 + rows + (tokens - sealed) - (needle ? 1 : 0), tokens);
  }
  void Write(int32_t layer, int64_t position) {
    const std::vector<BFloat16> row = plant_.Row(position);
    for (int32_t head = 0; head < kHeads; ++head) {
      std::copy(row.begin(), row.end(), cache_->StoreRow(layer, head, position));
    }
  }

  Plant plant_{};
  std::unique_ptr<CacheRig> rig_;
  std::unique_ptr<SequenceCache> cache_;
};

// Both sparse layers are checked, a head each. A log-sum-exp near 20 is good to 20 * 2^-24.
constexpr double kMeterError = 1e-4;

TEST_F(PlantedNeedleTest, ANeedleOutsideTheChosenChannelsIsSeenAndFetchedInTheEnd) {
  Prefill(Policy(/*mass_floor=*/0.9f), {.needle_key = 1.2f});
  for (const int64_t rows : {8, 16, 32, 64, 128, 128, 128}) {
    ASSERT_EQ(cache_->budget_rows(), rows);
    const CheckTotals checks = Step();
    ASSERT_EQ(checks.heads, 2);
    const double truth = Truth(cache_->tokens(), rows);
    EXPECT_NEAR(checks.captured_mass_sum / 2, truth, kMeterError) << rows;
    EXPECT_EQ(truth > 0.9, rows == 128) << "the plant is what the test says";
    if (rows < 128) {
      EXPECT_GT(checks.output_error_sum / 2, 0.5);
    }
  }
}

TEST_F(PlantedNeedleTest, FlatAttentionIsItsShareOfTokensAndEndsExact) {
  Prefill(Policy(/*mass_floor=*/0.999f), {.needle_key = 0});
  int64_t rows = 8;
  for (; rows <= kMaxTopK; rows *= 2) {
    ASSERT_EQ(cache_->budget_rows(), rows);
    const int64_t candidates = 3 * kPageTokens - 8;
    const CheckTotals checks = Step();
    const double truth = Truth(cache_->tokens(), std::min(rows, candidates));
    EXPECT_NEAR(checks.captured_mass_sum / 2, truth, kMeterError) << rows;
    if (truth > 0.999) break;
  }
  EXPECT_EQ(rows, 512) << "all 376 candidates are fetched";
}

TEST_F(PlantedNeedleTest, AboveTheFloorTheBudgetStays) {
  Prefill(Policy(/*mass_floor=*/0.3f), {.needle_key = 0});
  for (int i = 0; i < 3; ++i) {
    const double captured = Step().captured_mass_sum / 2;
    EXPECT_NEAR(captured, Truth(cache_->tokens(), 8), kMeterError);
    EXPECT_GT(captured, 0.3);
  }
  EXPECT_EQ(cache_->budget_rows(), 8);
}

}  // namespace
}  // namespace tailor
