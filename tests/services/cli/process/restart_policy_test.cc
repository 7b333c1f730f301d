#include "services/cli/process/restart_policy.h"

#include <gtest/gtest.h>

namespace tailor {
namespace {

using Action = RestartDecision::Action;

constexpr ChildExit kCrash{.code = 0, .signal = 11};

TEST(RestartPolicyTest, BackoffDoublesUpToItsLimit) {
  const RestartPolicy policy{
      .first_backoff_ms = 100, .longest_backoff_ms = 500, .failures_in_a_row = 10};
  int failures = 0;
  for (const int64_t want_ms : {100, 200, 400, 500, 500}) {
    const RestartDecision decision = DecideRestart(policy, kCrash, 0, failures);
    EXPECT_EQ(decision.action, Action::kRestart);
    EXPECT_EQ(decision.backoff_ms, want_ms);
    failures = decision.failures_in_a_row;
  }
}

TEST(RestartPolicyTest, GivesUpAfterTheAllowedFailuresInARow) {
  const RestartPolicy policy{.failures_in_a_row = 3};
  EXPECT_EQ(DecideRestart(policy, kCrash, 0, 2).action, Action::kRestart);
  EXPECT_EQ(DecideRestart(policy, kCrash, 0, 3).action, Action::kGiveUp);
}

TEST(RestartPolicyTest, ALongHealthyTimeForgetsEarlierFailures) {
  const RestartPolicy policy{.failures_in_a_row = 3, .healthy_after_ms = 1000};
  const RestartDecision decision = DecideRestart(policy, kCrash, 1000, 3);
  EXPECT_EQ(decision.action, Action::kRestart);
  EXPECT_EQ(decision.failures_in_a_row, 1);
}

TEST(RestartPolicyTest, ErrorsThatTryingAgainCannotCureGiveUpAtOnce) {
  for (const int code : {kExitUsage, kExitBadModel, kExitNoMemory, kExitPortBusy, kExitNoDevice}) {
    EXPECT_EQ(DecideRestart({}, ChildExit{.code = code}, 0, 0).action, Action::kGiveUp) << code;
  }
}

TEST(RestartPolicyTest, LosingTheStoreIsNotTheWorkersFailure) {
  const RestartPolicy policy{.failures_in_a_row = 3};
  const RestartDecision decision =
      DecideRestart(policy, ChildExit{.code = kExitLostStore}, /*ready_ms=*/5, 3);
  EXPECT_EQ(decision.action, Action::kRestart);
  EXPECT_EQ(decision.failures_in_a_row, 3);
}

TEST(RestartPolicyTest, AWorkerThatNeverFoundTheStoreIsNotRestartedForEver) {
  EXPECT_EQ(DecideRestart({.failures_in_a_row = 3}, ChildExit{.code = kExitLostStore}, 0, 3).action,
            Action::kGiveUp);
}

}  // namespace
}  // namespace tailor
