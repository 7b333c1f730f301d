#include "services/worker/store_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <vector>

#include "tests/services/worker/stats_only_store.h"

namespace tailor {
namespace {

using ::testing::HasSubstr;

constexpr StoreWatchOptions kQuick{.interval_ms = 1, .failures_in_a_row = 3};
const absl::Status kGone = absl::UnavailableError("the store is gone");

// What on_lost was told; empty when the store never was found lost while it had answers left.
absl::Status Watch(std::vector<absl::StatusOr<uint64_t>> epochs) {
  StatsOnlyStore store(std::move(epochs));
  std::promise<absl::Status> lost;
  std::future<absl::Status> told = lost.get_future();
  const StoreWatch watch(kQuick, &store,
                         [&lost](const absl::Status& status) { lost.set_value(status); });
  while (told.wait_for(std::chrono::milliseconds(1)) != std::future_status::ready) {
    if (store.answered_all()) return absl::OkStatus();
  }
  return told.get();
}

TEST(StoreWatchTest, AStoreThatAnswersIsNotLost) { EXPECT_TRUE(Watch({7, 7, 7, 7, 7}).ok()); }

TEST(StoreWatchTest, ThreeFailuresInARowLoseIt) {
  EXPECT_EQ(Watch({7, kGone, kGone, kGone, 7, 7}), kGone);
}

TEST(StoreWatchTest, ABusyMomentIsForgiven) {
  EXPECT_TRUE(Watch({7, kGone, kGone, 7, kGone, kGone, 7, 7}).ok());
}

TEST(StoreWatchTest, AnotherEpochIsAnotherStore) {
  const absl::Status status = Watch({7, 7, 8, 8});
  EXPECT_THAT(std::string(status.message()), HasSubstr("epoch is 8, was 7"));
}

TEST(StoreWatchTest, ARefusedLeaseIsFinal) {
  const absl::Status refused = absl::FailedPreconditionError("lease 3 is gone");
  EXPECT_EQ(Watch({7, refused, 7, 7, 7}), refused);
}

}  // namespace
}  // namespace tailor
