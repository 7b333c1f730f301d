#include "kvstore/page_pool.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace tailor {
namespace {

std::vector<uint32_t> Indexes(const std::vector<PageId>& pages) {
  std::vector<uint32_t> indexes;
  for (const PageId page : pages) indexes.push_back(Index(page));
  return indexes;
}

using Pages = std::vector<uint32_t>;

TEST(PagePool, TheLowestRunThatIsLongEnoughIsHandedOut) {
  PagePool pool(10);
  EXPECT_EQ(Indexes(pool.Allocate(10)).size(), 10u);
  for (const uint32_t page : {1u, 3u, 4u, 7u, 8u, 9u}) pool.DropReference(PageId{page});
  EXPECT_EQ(Indexes(pool.Allocate(2)), Pages({3, 4}));
  EXPECT_EQ(Indexes(pool.Allocate(1)), Pages({1}));
  EXPECT_EQ(Indexes(pool.Allocate(3)), Pages({7, 8, 9}));
}

TEST(PagePool, WithoutARunTheLowestPagesAreHandedOut) {
  PagePool pool(8);
  pool.Allocate(8);
  for (const uint32_t page : {1u, 3u, 4u, 7u}) pool.DropReference(PageId{page});
  EXPECT_EQ(Indexes(pool.Allocate(3)), Pages({1, 3, 4}));
}

TEST(PagePool, MoreThanAreFreeIsNothingAndTakesNothing) {
  PagePool pool(4);
  pool.Allocate(2);
  EXPECT_TRUE(pool.Allocate(3).empty());
  EXPECT_EQ(pool.free(), 2);
  EXPECT_TRUE(pool.Allocate(0).empty());
  EXPECT_EQ(pool.free(), 2);
}

TEST(PagePool, APageIsFreeAgainOnceItsLastReferenceGoes) {
  PagePool pool(1);
  const PageId page = pool.Allocate(1)[0];
  pool.AddReference(page);
  EXPECT_EQ(pool.references(page), 2u);
  EXPECT_FALSE(pool.DropReference(page));
  EXPECT_EQ(pool.free(), 0);
  EXPECT_TRUE(pool.DropReference(page));
  EXPECT_EQ(pool.free(), 1);
  EXPECT_EQ(pool.references()[0], 0u);
}

TEST(PagePoolDeathTest, ReferencesToAFreePageAreABug) {
  PagePool pool(1);
  EXPECT_DEATH(pool.AddReference(PageId{0}), "check failed");
  EXPECT_DEATH(pool.DropReference(PageId{0}), "check failed");
}

TEST(PagePool, RandomReferencesAddUp) {
  const uint64_t seed = 20240608;
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  PagePool pool(20);
  std::map<uint32_t, uint32_t> held;
  for (int step = 0; step < 20'000; ++step) {
    const uint64_t choice = random() % 3;
    if (choice == 0) {
      const auto count = static_cast<int64_t>(random() % 6);
      const std::vector<PageId> pages = pool.Allocate(count);
      ASSERT_EQ(static_cast<int64_t>(pages.size()), count > 20 - std::ssize(held) ? 0 : count);
      for (const PageId page : pages) ASSERT_TRUE(held.emplace(Index(page), 1).second);
    } else if (!held.empty()) {
      const auto it = std::next(held.begin(), static_cast<int64_t>(random() % held.size()));
      if (choice == 1 && it->second < 4) {
        pool.AddReference(PageId{it->first});
        ++it->second;
      } else {
        ASSERT_EQ(pool.DropReference(PageId{it->first}), --it->second == 0);
        if (it->second == 0) held.erase(it);
      }
    }
    ASSERT_EQ(pool.free(), 20 - std::ssize(held));
    for (const auto& [page, references] : held) {
      ASSERT_EQ(pool.references(PageId{page}), references);
    }
  }
}

}  // namespace
}  // namespace tailor
