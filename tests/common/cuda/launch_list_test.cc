// A step's launches as data: who waits for whom, and what of two lists differs.
#include "common/cuda/launch_list.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <random>
#include <vector>

namespace tailor {
namespace {

using ::testing::ElementsAre;

int kernels[4];  // their addresses name kernels

// A launch with one int argument and one of 20 bytes.
void Add(LaunchList& list, int kernel = 0, int value = 0, uint32_t grid = 1) {
  std::array<std::byte, 20> other;
  other.fill(static_cast<std::byte>(value));
  const std::span<const std::byte> arguments[] = {std::as_bytes(std::span(&value, 1)), other};
  list.Add({.kernel = &kernels[kernel], .grid = {grid}, .threads = {32}, .shared_bytes = 0},
           arguments);
}

std::vector<uint32_t> Needs(const LaunchList& list, size_t i) {
  return {list.Needs(i).begin(), list.Needs(i).end()};
}

TEST(LaunchListTest, LaunchesWaitForTheOneBefore) {
  LaunchList list;
  for (int i = 0; i < 3; ++i) Add(list);
  EXPECT_THAT(Needs(list, 0), ElementsAre());
  EXPECT_THAT(Needs(list, 1), ElementsAre(0));
  EXPECT_THAT(Needs(list, 2), ElementsAre(1));
}

TEST(LaunchListTest, LanesStartAfterTheTrunkAndMeetInTheNextLaunch) {
  LaunchList list;
  Add(list);
  for (const int lane : {0, 1, 0}) {  // lane 0 is gone on with
    list.BeginLane(lane);
    Add(list);
  }
  list.EndLanes();
  Add(list);
  Add(list);
  EXPECT_THAT(Needs(list, 1), ElementsAre(0));
  EXPECT_THAT(Needs(list, 2), ElementsAre(0));
  EXPECT_THAT(Needs(list, 3), ElementsAre(1));
  EXPECT_THAT(Needs(list, 4), ElementsAre(2, 3));
  EXPECT_THAT(Needs(list, 5), ElementsAre(4));
}

TEST(LaunchListTest, EmptyLanesAndLanesAtTheStartChangeNothing) {
  LaunchList list;
  list.BeginLane(0);
  Add(list);
  list.BeginLane(1);
  list.EndLanes();
  list.EndLanes();
  Add(list);
  list.BeginLane(3);
  list.EndLanes();
  Add(list);
  EXPECT_THAT(Needs(list, 0), ElementsAre());
  EXPECT_THAT(Needs(list, 1), ElementsAre(0));
  EXPECT_THAT(Needs(list, 2), ElementsAre(1));
}

TEST(LaunchListTest, AJoinWaitsForEveryLaneAndOnlyItsOwnGoesOnAfterIt) {
  LaunchList list;
  Add(list);
  list.BeginLane(0);
  Add(list);
  list.BeginLane(1);
  list.JoinNext();
  Add(list);
  list.BeginLane(0);
  Add(list);
  list.EndLanes();
  Add(list);
  EXPECT_THAT(Needs(list, 2), ElementsAre(1));  // which waits for 0
  EXPECT_THAT(Needs(list, 3), ElementsAre(1));
  EXPECT_THAT(Needs(list, 4), ElementsAre(2, 3));
}

// Which launches come before which, kept the slow way.
class Model {
 public:
  void Add(int lane, bool join) {
    const size_t b = before_.size();
    std::vector<bool> before(b, lane < 0 || join);
    for (size_t a = 0; a < b; ++a) {
      if (group_[a] < current_group_ || lane_[a] == lane) {
        before[a] = true;
        for (size_t c = 0; c < a; ++c) before[c] = before[c] || before_[a][c];
      }
    }
    before_.push_back(before);
    group_.push_back(current_group_);
    lane_.push_back(lane);
  }
  void EndGroup() { ++current_group_; }
  const std::vector<std::vector<bool>>& before() const { return before_; }

 private:
  std::vector<std::vector<bool>> before_;
  std::vector<int> group_, lane_;
  int current_group_ = 0;
};

TEST(LaunchListTest, WhatComesBeforeWhatIsTheModelsUnderRandomLanesAndJoins) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    std::mt19937_64 random(seed);
    LaunchList list;
    Model model;
    int lane = -1;
    for (int op = 0; op < 60; ++op) {
      switch (random() % 6) {
        case 0:
          list.EndLanes();
          model.EndGroup();
          lane = -1;
          break;
        case 1:
          if (lane < 0) model.EndGroup();
          lane = static_cast<int>(random() % 3);
          list.BeginLane(lane);
          break;
        default:
          const bool join = random() % 5 == 0;
          if (join) list.JoinNext();
          Add(list);
          model.Add(lane, join);
      }
    }
    std::vector<std::vector<bool>> before;
    for (size_t i = 0; i < list.size(); ++i) {
      before.emplace_back(i, false);
      std::vector<uint32_t> needs = Needs(list, i);
      ASSERT_TRUE(std::adjacent_find(needs.begin(), needs.end(), std::greater_equal<>()) ==
                  needs.end())
          << "seed " << seed << ": each once, ascending";
      for (const uint32_t need : needs) {
        ASSERT_LT(need, i);
        before[i][need] = true;
        for (size_t c = 0; c < need; ++c) before[i][c] = before[i][c] || before[need][c];
      }
    }
    ASSERT_EQ(before, model.before()) << "seed " << seed;
  }
}

TEST(LaunchListTest, ArgumentsAreTheBytesThatWereAdded) {
  LaunchList list;
  for (int value = 1; value <= 100; ++value) Add(list, 0, value);
  for (int i = 0; i < 100; ++i) {
    const LaunchArguments arguments = list.Arguments(i);
    ASSERT_EQ(arguments.size(), 2u);
    ASSERT_EQ(reinterpret_cast<uintptr_t>(arguments[0].data()) % 16, 0u);
    int value = 0;
    ASSERT_EQ(arguments[0].size(), sizeof(value));
    std::memcpy(&value, arguments[0].data(), sizeof(value));
    EXPECT_EQ(value, i + 1);
    ASSERT_EQ(arguments[1].size(), 20u);
    EXPECT_EQ(arguments[1].back(), static_cast<std::byte>(i + 1));
  }
}

TEST(LaunchListTest, ValuesMayDifferWithinAStructure) {
  LaunchList a, b;
  for (LaunchList* list : {&a, &b}) {
    Add(*list, 0, 1);
    Add(*list, 1, list == &a ? 2 : 3);
    Add(*list, 2, 4, list == &a ? 5 : 6);
  }
  ASSERT_TRUE(a.SameStructure(b));
  EXPECT_FALSE(a.Differs(0, b));
  EXPECT_TRUE(a.Differs(1, b));
  EXPECT_TRUE(a.Differs(2, b));
}

TEST(LaunchListTest, KernelsTheirNumberAndTheirOrderAreTheStructure) {
  LaunchList one, two, longer, laned;
  Add(one, 0), Add(one, 1);
  Add(two, 1), Add(two, 0);
  Add(longer, 0), Add(longer, 1), Add(longer, 1);
  Add(laned, 0);
  laned.JoinNext();
  laned.BeginLane(0);
  Add(laned, 1);
  EXPECT_FALSE(one.SameStructure(two));
  EXPECT_FALSE(one.SameStructure(longer));
  EXPECT_FALSE(longer.SameStructure(one));
  EXPECT_TRUE(one.SameStructure(laned)) << "a lane by itself is the trunk";
  LaunchList apart, chained;
  for (LaunchList* list : {&apart, &chained}) {
    list->BeginLane(0);
    Add(*list, 0);
    if (list == &apart) list->BeginLane(1);
    Add(*list, 1);
  }
  EXPECT_FALSE(apart.SameStructure(chained)) << "needs differ";
}

TEST(LaunchListTest, AClearedListIsAnEmptyOne) {
  LaunchList list, fresh;
  Add(list, 2, 9);
  list.BeginLane(1);
  Add(list, 3, 9);
  list.JoinNext();
  list.Clear();
  EXPECT_EQ(list.size(), 0u);
  for (LaunchList* of : {&list, &fresh}) {
    Add(*of, 0, 1);
    Add(*of, 1, 2);
  }
  ASSERT_TRUE(list.SameStructure(fresh));
  EXPECT_FALSE(list.Differs(0, fresh) || list.Differs(1, fresh));
}

}  // namespace
}  // namespace tailor
