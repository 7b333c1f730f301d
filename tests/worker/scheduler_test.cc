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

TEST(SchedulerTest, EveryDecodingTurnStepsTheOldestFirstAllTogether) {
  const std::vector<ScheduledTurn> turns = {{7, kDecoding}, {2, kDecoding}, {5, kDecoding}};
  const BatchPlan plan = PlanBatch(turns, 8, 16);
  EXPECT_THAT(plan.decode, ElementsAre(ElementsAre(2, 5, 7)));
  EXPECT_FALSE(plan.prefill.has_value());
}

TEST(SchedulerTest, MoreTurnsThanRowsStepInSeveralGroupsAndNoneIsLeftOut) {
  std::vector<ScheduledTurn> turns;
  for (uint64_t turn : {9, 1, 8, 2, 7}) turns.push_back({turn, kDecoding});
  EXPECT_THAT(PlanBatch(turns, 8, 2).decode,
              ElementsAre(ElementsAre(1, 2), ElementsAre(7, 8), ElementsAre(9)));
  EXPECT_THAT(PlanBatch(turns, 8, 5).decode, ElementsAre(ElementsAre(1, 2, 7, 8, 9)));
  EXPECT_EQ(PlanBatch(turns, 8, 1).decode.size(), 5u);
}

TEST(SchedulerTest, APrefillUnitRunsBesideTheDecodeSteps) {
  const std::vector<ScheduledTurn> turns = {{1, kDecoding}, {2, kPrefilling}, {3, kWaiting}};
  const BatchPlan plan = PlanBatch(turns, 8, 16);
  EXPECT_THAT(plan.decode, ElementsAre(ElementsAre(1)));
  EXPECT_EQ(plan.prefill, 2u);
}

TEST(SchedulerTest, WaitingTurnsStartInOrderOfArrival) {
  const std::vector<ScheduledTurn> turns = {{9, kWaiting}, {4, kWaiting}};
  EXPECT_EQ(PlanBatch(turns, 8, 16).prefill, 4u);
}

TEST(SchedulerTest, NoTurnStartsPastTheLimit) {
  const std::vector<ScheduledTurn> turns = {{1, kDecoding}, {2, kDecoding}, {3, kWaiting}};
  EXPECT_FALSE(PlanBatch(turns, 2, 16).prefill.has_value());
  EXPECT_EQ(PlanBatch(turns, 3, 16).prefill, 3u);
}

TEST(SchedulerTest, NothingToDoIsAnEmptyPlan) {
  const BatchPlan plan = PlanBatch({}, 1, 16);
  EXPECT_THAT(plan.decode, IsEmpty());
  EXPECT_FALSE(plan.prefill.has_value());
}

}  // namespace
}  // namespace tailor
