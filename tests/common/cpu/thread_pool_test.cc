#include "common/cpu/thread_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <thread>
#include <vector>

namespace tailor {
namespace {

using ::testing::Each;

class ThreadPoolTest : public ::testing::TestWithParam<std::tuple<int, int>> {
 protected:
  int threads() const { return std::get<0>(GetParam()); }
  int spin_us() const { return std::get<1>(GetParam()); }
};

// Plain ints on purpose: the thread sanitizer sees a part done twice at once, or one that a Run does
// not wait for.
TEST_P(ThreadPoolTest, EveryWorkersPartIsDoneOnceInEveryRun) {
  ThreadPool pool(threads(), spin_us());
  std::vector<int> done(threads());
  constexpr int kRuns = 3000;
  for (int run = 1; run <= kRuns; ++run) {
    pool.Run([&](int worker) { ++done[worker]; });
    ASSERT_THAT(done, Each(run));
  }
}

TEST_P(ThreadPoolTest, RangesCoverEveryUnitOnce) {
  ThreadPool pool(threads(), spin_us());
  std::mt19937 random(1);
  for (int run = 0; run < 300; ++run) {
    std::vector<int> by_range(random() % 40), by_unit(by_range.size());
    pool.ParallelFor(static_cast<int64_t>(by_range.size()), [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) ++by_range[i];
    });
    pool.ForEach(static_cast<int64_t>(by_unit.size()), [&](int64_t unit, int) { ++by_unit[unit]; });
    ASSERT_THAT(by_range, Each(1));
    ASSERT_THAT(by_unit, Each(1));
  }
}

// Workers fall asleep between runs of uneven length, and wake up in the middle of later ones.
TEST_P(ThreadPoolTest, SleepingWorkersMissNoRunAndTakeNoPartTwice) {
  ThreadPool pool(threads(), spin_us());
  std::vector<int> done(threads());
  std::mt19937 random(2);
  for (int run = 1; run <= 200; ++run) {
    const bool uneven = random() % 2 == 0;
    pool.Run([&](int worker) {
      if (uneven && worker == 1) std::this_thread::sleep_for(std::chrono::microseconds(300));
      ++done[worker];
    });
    ASSERT_THAT(done, Each(run));
    if (run % 10 == 0) std::this_thread::sleep_for(std::chrono::microseconds(500));
  }
}

INSTANTIATE_TEST_SUITE_P(ThreadsAndSpin, ThreadPoolTest,
                         ::testing::Combine(::testing::Values(1, 2, 3, 8),
                                            ::testing::Values(0, 50)));

}  // namespace
}  // namespace tailor
