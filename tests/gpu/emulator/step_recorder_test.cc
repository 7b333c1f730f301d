// The recorder of steps on the emulated runtime, whose streams run nothing before the host waits
// and whose graphs run in several orders that their dependencies allow.
#include "worker/ops/cuda/step_recorder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "tests/gpu/emulator/simt.h"
#include "worker/ops/cuda/check_cuda.h"

namespace tailor::cuda {
namespace {

using ::testing::ElementsAre;

struct Log {
  std::vector<int> values;
};

// Kernels that note their value, given or in memory; kName makes different kernels of them.
template <int kName>
void Note(Log* log, int value) {
  if (threadIdx.x == 0) log->values.push_back(value + 1000 * static_cast<int>(gridDim.x));
}
void NoteTable(Log* log, const int* table, int count) {
  if (threadIdx.x != 0) return;
  for (int i = 0; i < count; ++i) log->values.push_back(table[i]);
}

class StepRecorderTest : public ::testing::Test {
 protected:
  StepRecorderTest() { Make(StepRecorder::Graphs::kOn); }
  void Make(StepRecorder::Graphs graphs) {
    recorder_.reset();
    recorder_ = *StepRecorder::Make(&pool_, stream_.get(), graphs);
  }
  CudaStreamRef stream() { return CudaStreamRef(stream_.get(), recorder_.get()); }
  template <int kName = 0>
  void Launch(int value, unsigned grid = 1) {
    emulator::LaunchKernel(&Note<kName>, grid, 32, 0, stream(), &log_, value);
  }
  // A launch that reads `values` from memory; returns where.
  const int* LaunchTable(const std::vector<int>& values) {
    const std::byte* at = recorder_->Put(std::as_bytes(std::span(values)));
    if (at == nullptr) return nullptr;
    emulator::LaunchKernel(&NoteTable, 1, 32, 0, stream(), &log_, reinterpret_cast<const int*>(at),
                           static_cast<int>(values.size()));
    return reinterpret_cast<const int*>(at);
  }
  // What ran since the last call.
  std::vector<int> Ran() {
    CheckCuda(cudaStreamSynchronize(stream_.get()), "cudaStreamSynchronize");
    return std::exchange(log_.values, {});
  }
  const StepStats& stats() const { return recorder_->stats(); }

  static constexpr int64_t kPoolBytes = int64_t{8} << 20;
  CudaMemory memory_ = *MakeCudaMemory(kPoolBytes);
  DevicePool pool_{static_cast<std::byte*>(memory_.get()), kPoolBytes};
  Log log_;
  CudaStream stream_ = *MakeCudaStream();
  std::unique_ptr<StepRecorder> recorder_;
};

TEST_F(StepRecorderTest, OutsideAStepLaunchesGoToTheStream) {
  Launch(1);
  EXPECT_THAT(Ran(), ElementsAre(1001));
  EXPECT_EQ(stats().launches, 0);
}

TEST_F(StepRecorderTest, AStepOfTheSameKernelsChangesOnlyTheValuesThatDiffer) {
  for (int step = 0; step < 5; ++step) {
    recorder_->Begin(1);
    Launch(1);
    Launch<1>(2 + step);
    Launch<2>(3);
    Launch<2>(4, step == 4 ? 2 : 1);
    EXPECT_THAT(Ran(), ElementsAre()) << "recorded only";
    recorder_->End();
    std::vector<int> want = {1001, 1002 + step, 1003, 1004};
    if (step == 4) want = {1001, 1006, 1003, 2004, 2004};  // of two blocks
    EXPECT_EQ(Ran(), want) << step;
  }
  EXPECT_EQ(stats().steps, 5);
  EXPECT_EQ(stats().graph_launches, 5);
  EXPECT_EQ(stats().graphs_built, 1);
  EXPECT_EQ(stats().nodes_updated, 4 + 1);
  EXPECT_EQ(stats().launches, 20);
}

TEST_F(StepRecorderTest, StructuresThatTakeTurnsAreBuiltOnce) {
  for (int step = 0; step < 6; ++step) {
    recorder_->Begin(1);
    Launch(step);
    if (step % 2 == 0) Launch<1>(step);
    recorder_->End();
    EXPECT_EQ(Ran().size(), step % 2 == 0 ? 2u : 1u);
  }
  EXPECT_EQ(stats().graphs_built, 2);
  EXPECT_EQ(stats().graph_launches, 6);
}

TEST_F(StepRecorderTest, EachNumberOfRowsHasItsGraph) {
  for (const int rows : {1, 2, 1, 2}) {
    recorder_->Begin(rows);
    Launch(rows);
    recorder_->End();
  }
  EXPECT_THAT(Ran(), ElementsAre(1001, 1002, 1001, 1002));
  EXPECT_EQ(stats().graphs_built, 2);
  EXPECT_EQ(stats().nodes_updated, 0);
}

TEST_F(StepRecorderTest, OfTooManyGraphsTheOneUsedLongestAgoGivesWay) {
  const auto step = [&](int rows) {
    recorder_->Begin(rows);
    Launch(rows);
    recorder_->End();
  };
  constexpr int kKept = static_cast<int>(StepGraphs::kMostKept);
  for (int rows = 1; rows <= kKept; ++rows) step(rows);
  step(1);
  step(kKept + 1);  // in the place of 2
  step(1);
  EXPECT_EQ(stats().graphs_built, kKept + 1);
  step(2);
  EXPECT_EQ(stats().graphs_built, kKept + 2);
  EXPECT_EQ(Ran().size(), static_cast<size_t>(kKept + 4));
}

TEST_F(StepRecorderTest, WhatNeedsTheStreamComesBetweenWhatWasRecordedAndTheRest) {
  recorder_->Begin(1);
  Launch(1);
  Launch(2);
  LaunchTable({31, 32});
  const CudaStreamRef as_recorded = stream();
  emulator::LaunchKernel(&Note<1>, 1, 32, 0, CudaStreamRef(as_recorded.Direct()), &log_, 4);
  EXPECT_FALSE(recorder_->recording());
  emulator::LaunchKernel(&Note<1>, 1, 32, 0, as_recorded, &log_, 5);
  const int value = 6;
  EXPECT_EQ(recorder_->Put(std::as_bytes(std::span(&value, 1))), nullptr);
  recorder_->End();
  EXPECT_THAT(Ran(), ElementsAre(1001, 1002, 31, 32, 1004, 1005));
  EXPECT_EQ(stats().flushed, 1);
  EXPECT_EQ(stats().graph_launches, 0);
  recorder_->Begin(1);
  Launch(7);
  recorder_->End();
  EXPECT_EQ(stats().graph_launches, 1) << "the next step is recorded again";
}

// Nothing runs before the end: each step's copy must still find its own values.
TEST_F(StepRecorderTest, StepsThatWaitInTheStreamKeepTheirArgumentsAtTheSamePlaces) {
  const int* first = nullptr;
  for (int step = 0; step < 7; ++step) {
    recorder_->Begin(1);
    LaunchTable({10 * step});
    const int* at = LaunchTable({10 * step + 1, 10 * step + 2});
    if (step == 0) first = at;
    EXPECT_EQ(at, first);
    Launch(step);
    recorder_->End();
  }
  std::vector<int> want;
  for (int step = 0; step < 7; ++step) {
    want.insert(want.end(), {10 * step, 10 * step + 1, 10 * step + 2, 1000 + step});
  }
  EXPECT_EQ(Ran(), want);
  EXPECT_EQ(stats().graphs_built, 1);
  EXPECT_EQ(stats().nodes_updated, 6) << "the last launch's value alone";
}

TEST_F(StepRecorderTest, AStepWithoutRoomIsFlushedAndTheNextHasIt) {
  const std::vector<int> most(StepArguments::kFirstBytes / sizeof(int), 1);
  const int64_t before = pool_.free_bytes();
  for (int step = 0; step < 3; ++step) {
    recorder_->Begin(1);
    LaunchTable({7});
    const bool put = LaunchTable(most) != nullptr;
    EXPECT_EQ(put, step > 0);
    recorder_->End();
    const std::vector<int> ran = Ran();
    EXPECT_EQ(ran.size(), put ? most.size() + 1 : 1);
    EXPECT_EQ(ran.front(), 7);
  }
  EXPECT_EQ(stats().flushed, 1);
  EXPECT_EQ(stats().graph_launches, 2);
  EXPECT_EQ(stats().graphs_built, 1);
  EXPECT_EQ(before - pool_.free_bytes(), StepArguments::kFirstBytes) << "doubled in place";
}

TEST_F(StepRecorderTest, WithoutMemoryToGrowStepsGoOnBeingFlushed) {
  const auto rest = pool_.Allocate(pool_.largest_hole(), 0);
  ASSERT_TRUE(rest.ok());
  const std::vector<int> most(StepArguments::kFirstBytes / sizeof(int), 1);
  for (int step = 0; step < 3; ++step) {
    recorder_->Begin(1);
    LaunchTable({7});
    EXPECT_EQ(LaunchTable(most), nullptr);
    recorder_->End();
    EXPECT_THAT(Ran(), ElementsAre(7));
  }
  EXPECT_EQ(stats().flushed, 3);
}

TEST_F(StepRecorderTest, MemoryFreedInAStepGoesBackWhenTheStepIsEnqueued) {
  const int64_t before = pool_.free_bytes();
  for (const bool flush : {false, true}) {
    std::byte* const data = *pool_.Allocate(100, 0);
    recorder_->Begin(1);
    Launch(1);
    recorder_->Free(data);
    EXPECT_LT(pool_.free_bytes(), before) << "a recorded launch may read it";
    if (flush) {
      (void)stream().Direct();
      EXPECT_EQ(pool_.free_bytes(), before);
    }
    recorder_->End();
    EXPECT_EQ(pool_.free_bytes(), before);
  }
  std::byte* const data = *pool_.Allocate(100, 0);
  recorder_->Free(data);
  EXPECT_EQ(pool_.free_bytes(), before) << "at once outside a step";
}

TEST_F(StepRecorderTest, LanesKeepTheirOwnOrderAndNoOther) {
  const auto step = [&] {
    recorder_->Begin(3);
    Launch(0);
    for (const int lane : {0, 1, 0}) {
      recorder_->BeginLane(lane);
      EXPECT_EQ(recorder_->lane(), lane);
      Launch(10 * lane + 1);
      Launch(10 * lane + 2);
    }
    recorder_->EndLanes();
    EXPECT_EQ(recorder_->lane(), 0);
    Launch(99);
    recorder_->End();
    return Ran();
  };
  const std::vector<int> first = step(), second = step(), third = step();
  EXPECT_TRUE(first != second && second != third && first != third)
      << "orders of the emulated device";
  EXPECT_EQ(stats().graphs_built, 1);
  for (const std::vector<int>& ran : {first, second, third}) {
    EXPECT_EQ(ran.front(), 1000);
    EXPECT_EQ(ran.back(), 1099);
    std::vector<int> lanes[2];
    for (const int value : ran) {
      if (value > 1000 && value < 1099) lanes[(value - 1000) / 10].push_back(value);
    }
    EXPECT_THAT(lanes[0], ElementsAre(1001, 1002, 1001, 1002));
    EXPECT_THAT(lanes[1], ElementsAre(1011, 1012));
  }
}

TEST_F(StepRecorderTest, MoreLanesThanThereAreFollowOneAnother) {
  for (int step = 0; step < 2; ++step) {
    recorder_->Begin(1);
    for (const int lane : {1, 1 + StepRecorder::kLanes, 1 + 2 * StepRecorder::kLanes}) {
      recorder_->BeginLane(lane);
      EXPECT_EQ(recorder_->lane(), 1);
      Launch(lane);
    }
    recorder_->EndLanes();
    recorder_->End();
    EXPECT_THAT(Ran(), ElementsAre(1001, 1005, 1009));
  }
}

TEST_F(StepRecorderTest, AFlushInALaneGoesOnInOrder) {
  recorder_->Begin(2);
  recorder_->BeginLane(1);
  Launch(1);
  (void)stream().Direct();
  EXPECT_EQ(recorder_->lane(), 0);
  Launch(2);
  recorder_->BeginLane(0);
  Launch(3);
  recorder_->EndLanes();
  Launch(4);
  recorder_->End();
  EXPECT_THAT(Ran(), ElementsAre(1001, 1002, 1003, 1004));
}

TEST_F(StepRecorderTest, SwitchedOffNothingIsRecorded) {
  Make(StepRecorder::Graphs::kOff);
  recorder_->Begin(1);
  EXPECT_FALSE(recorder_->recording());
  Launch(1);
  EXPECT_THAT(Ran(), ElementsAre(1001)) << "before the step ends";
  recorder_->End();
  EXPECT_EQ(stats().graphs_built, 0);
  EXPECT_EQ(stats().steps, 1);
}

TEST_F(StepRecorderTest, AStepThatADriverRefusesAsAGraphRunsWithoutOneAndSoDoTheNext) {
  ASSERT_EQ(setenv("TAILOR_EMULATED_GRAPHS", "no", 1), 0);
  for (int step = 0; step < 2; ++step) {
    recorder_->Begin(1);
    Launch(1);
    LaunchTable({2});
    EXPECT_EQ(recorder_->recording(), step == 0);
    recorder_->End();
  }
  ASSERT_EQ(unsetenv("TAILOR_EMULATED_GRAPHS"), 0);
  EXPECT_THAT(Ran(), ElementsAre(1001, 2, 1001)) << "off, tables go another way";
  EXPECT_EQ(stats().graph_launches, 0);
}

TEST_F(StepRecorderTest, AnEmptyStepEnqueuesNothing) {
  recorder_->Begin(1);
  recorder_->End();
  EXPECT_EQ(stats().graphs_built + stats().flushed, 0);
  EXPECT_DEATH(recorder_->End(), "");
}

}  // namespace
}  // namespace tailor::cuda
