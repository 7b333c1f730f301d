#include "kvstore/eviction.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

namespace tailor {
namespace {

std::vector<PageId> Pages(std::initializer_list<uint32_t> indexes) {
  std::vector<PageId> pages;
  for (const uint32_t index : indexes) pages.push_back(PageId{index});
  return pages;
}

struct Detached {
  uint64_t last_used;
  std::vector<PageId> pages;
};

// sequence -> what it lists; `kept`: pages that attached sequences list.
struct Snapshot {
  std::map<uint64_t, Detached> detached;
  std::vector<PageId> kept;
  int64_t pages = 32;

  EvictionPlan Plan(int64_t needed) const {
    std::vector<EvictionCandidate> candidates;
    std::vector<uint32_t> references(pages, 0);
    for (const PageId page : kept) ++references[Index(page)];
    for (const auto& [id, sequence] : detached) {
      candidates.push_back({id, sequence.last_used, sequence.pages});
      for (const PageId page : sequence.pages) ++references[Index(page)];
    }
    return PlanEviction(candidates, references, needed);
  }

  // Pages that nobody lists once `gone` are gone, and some of those listed. By the definition.
  int64_t FreedWithout(const std::set<uint64_t>& gone) const {
    std::set<uint32_t> freed, listed;
    for (const PageId page : kept) listed.insert(Index(page));
    for (const auto& [id, sequence] : detached) {
      for (const PageId page : sequence.pages) {
        (gone.contains(id) ? freed : listed).insert(Index(page));
      }
    }
    return std::count_if(freed.begin(), freed.end(),
                         [&](uint32_t page) { return !listed.contains(page); });
  }
};

using Sequences = std::vector<uint64_t>;

TEST(PlanEviction, TheLeastRecentlyUsedGoFirstUntilEnoughIsFreed) {
  const Snapshot snapshot{
      .detached = {{1, {30, Pages({0, 1})}}, {2, {10, Pages({2, 3})}}, {3, {20, Pages({4, 5})}}},
      .kept = {}};
  EXPECT_EQ(snapshot.Plan(1).sequences, Sequences({2}));
  EXPECT_EQ(snapshot.Plan(2).sequences, Sequences({2}));
  EXPECT_EQ(snapshot.Plan(3).sequences, Sequences({2, 3}));
  EXPECT_EQ(snapshot.Plan(6).sequences, Sequences({2, 3, 1}));
  EXPECT_EQ(snapshot.Plan(3).freed_pages, 4);
}

TEST(PlanEviction, NothingNeededEvictsNobody) {
  const Snapshot snapshot{.detached = {{1, {1, Pages({0})}}}, .kept = {}};
  EXPECT_TRUE(snapshot.Plan(0).sequences.empty());
  EXPECT_TRUE(snapshot.Plan(-3).sequences.empty());
}

TEST(PlanEviction, WhenAllTogetherFreeTooFewThePlanSaysHowMany) {
  const Snapshot snapshot{.detached = {{1, {1, Pages({0, 1})}}, {2, {2, Pages({1, 2})}}},
                          .kept = Pages({2})};
  EXPECT_EQ(snapshot.Plan(3).freed_pages, 2);
  EXPECT_EQ(Snapshot{}.Plan(1).freed_pages, 0);
}

TEST(PlanEviction, OneWhosePagesOthersKeepIsSpared) {
  const Snapshot snapshot{.detached = {{1, {1, Pages({0, 1})}}, {2, {2, Pages({2})}}},
                          .kept = Pages({0, 1})};
  EXPECT_EQ(snapshot.Plan(1).sequences, Sequences({2}));
}

TEST(PlanEviction, PagesThatOnlyCandidatesShareAreFreedWhenTheLastOfThemGoes) {
  const Snapshot snapshot{.detached = {{1, {1, Pages({0, 1, 2})}}, {2, {2, Pages({0, 1, 2})}}},
                          .kept = {}};
  const EvictionPlan plan = snapshot.Plan(3);
  EXPECT_EQ(plan.sequences, Sequences({1, 2}));
  EXPECT_EQ(plan.freed_pages, 3);
}

// Against the definition: the plan is the shortest run of the LRU order that frees enough, less
// those whose stay changes nothing.
TEST(PlanEviction, RandomSnapshotsAreEvictedAsDefined) {
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    Snapshot snapshot;
    const uint64_t sequences = random() % 9;
    for (uint64_t id = 1; id <= sequences; ++id) {
      std::set<uint32_t> pages;
      for (uint64_t i = random() % 6; i > 0; --i) pages.insert(random() % 12);
      Detached& sequence = snapshot.detached[id];
      sequence.last_used = (id * 7) % 11;
      for (const uint32_t page : pages) sequence.pages.push_back(PageId{page});
    }
    for (uint64_t i = random() % 4; i > 0; --i) snapshot.kept.push_back(PageId(random() % 12));
    const auto needed = static_cast<int64_t>(1 + random() % 10);

    std::map<uint64_t, uint64_t> lru;
    for (const auto& [id, sequence] : snapshot.detached) lru[sequence.last_used] = id;
    std::set<uint64_t> gone;
    for (const auto& [used, id] : lru) {
      if (snapshot.FreedWithout(gone) < needed) gone.insert(id);
    }
    const int64_t freed = snapshot.FreedWithout(gone);
    Sequences want;
    for (const auto& [used, id] : lru) {
      std::set<uint64_t> without = gone;
      if (without.erase(id) > 0 && snapshot.FreedWithout(without) < freed) want.push_back(id);
    }
    const EvictionPlan plan = snapshot.Plan(needed);
    EXPECT_EQ(plan.sequences, want);
    EXPECT_EQ(plan.freed_pages, freed);
    EXPECT_EQ(snapshot.FreedWithout({want.begin(), want.end()}), freed) << "sparing frees as much";
  }
}

}  // namespace
}  // namespace tailor
