// The pool against a map of what was handed out, under random operations.
#include "worker/ops/cuda/device_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <map>
#include <random>
#include <string>
#include <vector>

namespace tailor::cuda {
namespace {

using ::testing::HasSubstr;

// The pool never follows an address: any base will do.
std::byte* const kBase = reinterpret_cast<std::byte*>(uintptr_t{1} << 32);

TEST(DevicePoolTest, BeyondTheBudgetIsRefusedWithAskedFreeAndLimit) {
  DevicePool pool(kBase, 1024);
  ASSERT_TRUE(pool.Allocate(700, 0).ok());
  const auto refused = pool.Allocate(300, 0);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.status().message()),
              HasSubstr("300 bytes asked, 256 free of 1024"));
  EXPECT_EQ(pool.Allocate(std::numeric_limits<int64_t>::max(), 0).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(pool.Allocate(256, 0).ok());
}

TEST(DevicePoolTest, ARefusalByFragmentationNamesTheLargestHole) {
  DevicePool pool(kBase, 3 * 256);
  std::byte* first = *pool.Allocate(256, 0);
  ASSERT_TRUE(pool.Allocate(256, 0).ok());
  pool.Free(first);
  EXPECT_THAT(std::string(pool.Allocate(512, 0).status().message()),
              HasSubstr("512 free of 768, at most 256 in one piece"));
}

TEST(DevicePoolTest, HolesThatTouchBecomeOneWhateverTheOrderOfFrees) {
  for (const std::vector<int>& order : {std::vector{0, 1, 2}, {2, 1, 0}, {0, 2, 1}, {1, 0, 2}}) {
    DevicePool pool(kBase, 3 * 256);
    std::vector<std::byte*> pieces;
    for (int i = 0; i < 3; ++i) pieces.push_back(*pool.Allocate(1, 0));
    for (const int i : order) pool.Free(pieces[i]);
    EXPECT_EQ(pool.largest_hole(), 3 * 256);
  }
}

TEST(DevicePoolTest, PiecesNeverOverlapAndEveryByteIsAccountedByKind) {
  constexpr int64_t kCapacity = 64 * 256;
  const uint64_t seed = 5;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  DevicePool pool(kBase, kCapacity + 100);  // a part below the alignment is not used
  ASSERT_EQ(pool.capacity(), kCapacity);
  struct Held {
    int64_t bytes;
    int kind;
  };
  std::map<std::byte*, Held> held;
  int64_t peak = 0, peak_by_kind[6] = {};
  for (int step = 0; step < 20000; ++step) {
    if (random() % 2 == 0 || held.empty()) {
      const Held want = {static_cast<int64_t>(random() % 2000), static_cast<int>(random() % 6)};
      const auto piece = pool.Allocate(want.bytes, want.kind);
      if (piece.ok()) {
        ASSERT_TRUE(held.emplace(*piece, want).second);
      }
    } else {
      const auto victim = std::next(held.begin(), static_cast<int64_t>(random() % held.size()));
      pool.Free(victim->first);
      held.erase(victim);
    }
    int64_t taken = 0, asked = 0, by_kind[6] = {};
    std::byte* end = kBase;
    for (const auto& [piece, what] : held) {
      const int64_t rounded = std::max<int64_t>(256, (what.bytes + 255) / 256 * 256);
      ASSERT_GE(piece, end) << "step " << step;
      ASSERT_EQ((piece - kBase) % 256, 0);
      end = piece + rounded;
      taken += rounded;
      asked += what.bytes;
      by_kind[what.kind] += rounded;
    }
    ASSERT_LE(end, kBase + kCapacity);
    ASSERT_EQ(pool.free_bytes(), kCapacity - taken);
    ASSERT_EQ(pool.asked_bytes(), asked);
    peak = std::max(peak, taken);
    ASSERT_EQ(pool.peak_bytes(), peak);
    for (int kind = 0; kind < 6; ++kind) {
      ASSERT_EQ(pool.kind_bytes(kind), by_kind[kind]);
      peak_by_kind[kind] = std::max(peak_by_kind[kind], by_kind[kind]);
      ASSERT_EQ(pool.peak_kind_bytes(kind), peak_by_kind[kind]);
    }
    if (random() % 64 == 0) {
      pool.StartPeaks();
      peak = taken;
      std::copy(by_kind, by_kind + 6, peak_by_kind);
    }
  }
}

TEST(DevicePoolDeathTest, FreeingWhatWasNotHandedOutAborts) {
  DevicePool pool(kBase, 1024);
  std::byte* piece = *pool.Allocate(1, 0);
  EXPECT_DEATH(pool.Free(piece + 256), "check failed");
}

TEST(DevicePoolTest, ContainsItsOwnAddressesAndNoOthers) {
  std::vector<std::byte> block(4096);
  const DevicePool pool(block.data() + 256, 1024);
  EXPECT_TRUE(pool.Contains(block.data() + 256));
  EXPECT_TRUE(pool.Contains(block.data() + 256 + 1023));
  EXPECT_FALSE(pool.Contains(block.data() + 255));
  EXPECT_FALSE(pool.Contains(block.data() + 256 + 1024));
  EXPECT_FALSE(pool.Contains(nullptr));
}

}  // namespace
}  // namespace tailor::cuda
