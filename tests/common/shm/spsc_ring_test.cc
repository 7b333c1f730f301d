#include "common/shm/spsc_ring.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <memory>
#include <thread>
#include <vector>

#include "common/shm/mapping.h"
#include "common/shm/ring_waiter.h"

namespace tailor {
namespace {

struct alignas(64) Item {
  uint64_t number;
  uint64_t square;
  uint8_t rest[48];
};
static_assert(sizeof(Item) == 64);

struct SharedRing {
  SpscIndices indices;
  Item slots[8];
};

Item ItemOf(uint64_t number) { return {.number = number, .square = number * number, .rest = {}}; }
int64_t InSeconds(int seconds) { return MonotonicNowNs() + seconds * int64_t{1'000'000'000}; }

// Pops in order until `count` items came, sleeping whenever the ring is empty. Returns how many
// came whole and in order before the deadline.
uint64_t ConsumeAll(SharedRing& ring, uint64_t count, int64_t deadline_ns) {
  SpscConsumer<Item> consumer(&ring.indices, ring.slots);
  RingWaiter waiter;
  uint64_t good = 0;
  while (good < count && MonotonicNowNs() < deadline_ns) {
    const uint32_t bell = waiter.bell();
    Item item;
    const RingResult result = consumer.TryPop(&item);
    if (result == RingResult::kCorrupt) return good;
    if (result == RingResult::kNotNow) {
      const RingWaiter::Watched watched{consumer.indices(), consumer.next()};
      waiter.Sleep({&watched, 1}, bell, deadline_ns);
      continue;
    }
    if (item.number != good || item.square != good * good) return good;
    ++good;
  }
  return good;
}

void ProduceAll(SharedRing& ring, uint64_t count) {
  SpscProducer<Item> producer(&ring.indices, ring.slots);
  for (uint64_t i = 0; i < count;) {
    if (producer.TryPush(ItemOf(i)) == RingResult::kOk) {
      ++i;
    } else {
      std::this_thread::yield();
    }
  }
}

TEST(SpscRing, FullRingRefusesAndEmptyRingYieldsNothing) {
  auto ring = std::make_unique<SharedRing>();
  SpscProducer<Item> producer(&ring->indices, ring->slots);
  SpscConsumer<Item> consumer(&ring->indices, ring->slots);
  Item item;
  EXPECT_EQ(consumer.TryPop(&item), RingResult::kNotNow);
  for (int i = 0; i < 8; ++i) EXPECT_EQ(producer.TryPush(ItemOf(i)), RingResult::kOk);
  EXPECT_EQ(producer.TryPush(ItemOf(8)), RingResult::kNotNow);
  for (uint64_t i = 0; i < 8; ++i) {
    ASSERT_EQ(consumer.TryPop(&item), RingResult::kOk);
    EXPECT_EQ(item.number, i);
  }
  EXPECT_EQ(consumer.TryPop(&item), RingResult::kNotNow);
}

TEST(SpscRing, IndicesWrapAroundThirtyTwoBits) {
  auto ring = std::make_unique<SharedRing>();
  ring->indices.head = ring->indices.tail = 0xfffffffdu;
  SpscProducer<Item> producer(&ring->indices, ring->slots);
  SpscConsumer<Item> consumer(&ring->indices, ring->slots);
  for (uint64_t i = 0; i < 100; ++i) {
    ASSERT_EQ(producer.TryPush(ItemOf(i)), RingResult::kOk);
    Item item;
    ASSERT_EQ(consumer.TryPop(&item), RingResult::kOk);
    EXPECT_EQ(item.number, i);
  }
}

TEST(SpscRing, AnImpossibleIndexOfTheOtherEndIsCorruption) {
  auto ring = std::make_unique<SharedRing>();
  SpscProducer<Item> producer(&ring->indices, ring->slots);
  SpscConsumer<Item> consumer(&ring->indices, ring->slots);
  ring->indices.head = 9;  // 9 items in 8 slots
  Item item;
  EXPECT_EQ(consumer.TryPop(&item), RingResult::kCorrupt);
  ring->indices.tail = 1;  // more taken than given
  EXPECT_EQ(producer.TryPush(ItemOf(0)), RingResult::kCorrupt);
}

TEST(SpscRing, ThreadsPassEveryItemOnceAndInOrder) {
  constexpr uint64_t kItems = 20'000;
  auto ring = std::make_unique<SharedRing>();
  std::thread producer([&] { ProduceAll(*ring, kItems); });
  EXPECT_EQ(ConsumeAll(*ring, kItems, InSeconds(50)), kItems);
  producer.join();
}

TEST(SpscRing, ProcessesPassEveryItemOnceAndInOrder) {
  constexpr uint64_t kItems = 20'000;
  const absl::StatusOr<UniqueFd> fd = CreateSealedMemfd("ring-test", sizeof(SharedRing));
  ASSERT_TRUE(fd.ok()) << fd.status();
  const absl::StatusOr<Mapping> mapping = Mapping::Map(fd->get(), sizeof(SharedRing));
  ASSERT_TRUE(mapping.ok()) << mapping.status();
  auto& ring = *reinterpret_cast<SharedRing*>(mapping->data());
  const pid_t child = ::fork();
  if (child == 0) {
    ProduceAll(ring, kItems);
    ::_exit(0);
  }
  EXPECT_EQ(ConsumeAll(ring, kItems, InSeconds(50)), kItems);
  int status = -1;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
}

// One sleeper per producer would hide a lost wake-up: here two threads share the rings' items.
TEST(RingWaiter, TwoConsumersOfTwoRingsLoseNoItemAndNoWakeUp) {
  constexpr uint64_t kItems = 5'000;
  std::array<std::unique_ptr<SharedRing>, 2> rings = {std::make_unique<SharedRing>(),
                                                      std::make_unique<SharedRing>()};
  struct Source {
    std::mutex mutex;
    std::unique_ptr<SpscConsumer<Item>> consumer;
  };
  std::array<Source, 2> sources;
  for (int r = 0; r < 2; ++r) {
    sources[r].consumer = std::make_unique<SpscConsumer<Item>>(&rings[r]->indices, rings[r]->slots);
  }
  RingWaiter waiter;
  std::atomic<uint64_t> taken{0}, sum{0};
  const int64_t deadline_ns = InSeconds(50);
  auto consume = [&] {
    while (taken.load() < 2 * kItems && MonotonicNowNs() < deadline_ns) {
      const uint32_t bell = waiter.bell();
      std::vector<RingWaiter::Watched> watched;
      bool found = false;
      for (Source& source : sources) {
        std::lock_guard lock(source.mutex);
        Item item;
        if (source.consumer->TryPop(&item) == RingResult::kOk) {
          sum += item.number;
          found = true;
          if (++taken == 2 * kItems) waiter.Ring();
        } else {
          watched.push_back({source.consumer->indices(), source.consumer->next()});
        }
      }
      if (!found) waiter.Sleep(watched, bell, deadline_ns);
    }
  };
  std::vector<std::thread> threads;
  threads.emplace_back(consume);
  threads.emplace_back(consume);
  for (auto& ring : rings) threads.emplace_back([&ring] { ProduceAll(*ring, kItems); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(taken.load(), 2 * kItems);
  EXPECT_EQ(sum.load(), kItems * (kItems - 1));
}

TEST(RingWaiter, SleepEndsAtItsDeadline) {
  auto ring = std::make_unique<SharedRing>();
  RingWaiter waiter;
  const int64_t deadline_ns = MonotonicNowNs() + 20'000'000;
  const RingWaiter::Watched watched{&ring->indices, 0};
  while (MonotonicNowNs() < deadline_ns) waiter.Sleep({&watched, 1}, waiter.bell(), deadline_ns);
  EXPECT_LT(MonotonicNowNs(), deadline_ns + 5'000'000'000);
  EXPECT_EQ(ring->indices.sleeping.load(), 0u);
}

}  // namespace
}  // namespace tailor
