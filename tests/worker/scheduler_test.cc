#include "worker/scheduler/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tailor {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr auto kWaiting = TurnStage::kWaiting;
constexpr auto kPrefilling = TurnStage::kPrefilling;
constexpr auto kDecoding = TurnStage::kDecoding;

TEST(SchedulerTest, EveryDecodingTurnStepsOldestFirst) {
  const std::vector<ScheduledTurn> turns = {{7, kDecoding}, {2, kDecoding}, {5, kDecoding}};
  const BatchPlan plan = PlanBatch(turns, 8);
  EXPECT_THAT(plan.decode, ElementsAre(2, 5, 7));
  EXPECT_FALSE(plan.prefill.has_value());
}

TEST(SchedulerTest, APrefillUnitRunsBesideTheDecodeSteps) {
  const std::vector<ScheduledTurn> turns = {{1, kDecoding}, {2, kPrefilling}, {3, kWaiting}};
  const BatchPlan plan = PlanBatch(turns, 8);
  EXPECT_THAT(plan.decode, ElementsAre(1));
  EXPECT_EQ(plan.prefill, 2u);
}

TEST(SchedulerTest, WaitingTurnsStartInOrderOfArrival) {
  const std::vector<ScheduledTurn> turns = {{9, kWaiting}, {4, kWaiting}};
  EXPECT_EQ(PlanBatch(turns, 8).prefill, 4u);
}

TEST(SchedulerTest, NoTurnStartsPastTheLimit) {
  const std::vector<ScheduledTurn> turns = {{1, kDecoding}, {2, kDecoding}, {3, kWaiting}};
  EXPECT_FALSE(PlanBatch(turns, 2).prefill.has_value());
  EXPECT_EQ(PlanBatch(turns, 3).prefill, 3u);
}

TEST(SchedulerTest, NothingToDoIsAnEmptyPlan) {
  const BatchPlan plan = PlanBatch({}, 1);
  EXPECT_THAT(plan.decode, IsEmpty());
  EXPECT_FALSE(plan.prefill.has_value());
}

}  // namespace
}  // namespace tailor
