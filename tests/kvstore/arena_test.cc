#include "kvstore/arena.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

namespace tailor {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

TEST(Arena, IsZeroedAlignedAndDescribedByItsHeader) {
  const auto arena = Arena::Create(3 * kMiB, 42);
  ASSERT_TRUE(arena.ok()) << arena.status();
  EXPECT_EQ(arena->bytes(), 4 * kMiB) << "whole 2 MiB pages";
  EXPECT_EQ(reinterpret_cast<uintptr_t>(arena->base()) % 4096, 0u);
  EXPECT_EQ(arena->pools_offset() % 4096, 0);
  const auto* header = reinterpret_cast<const ArenaHeader*>(arena->base());
  EXPECT_EQ(header->magic, kArenaMagic);
  EXPECT_EQ(header->version, kArenaVersion);
  EXPECT_EQ(header->epoch, 42u);
  EXPECT_EQ(header->bytes, 4u * kMiB);
  EXPECT_EQ(header->slot_count, kArenaSlots);
  EXPECT_EQ(header->slot_table_offset, arena->slot_table_offset());
  EXPECT_EQ(header->pools_offset, static_cast<uint64_t>(arena->pools_offset()));
  EXPECT_TRUE(std::all_of(arena->base() + sizeof(ArenaHeader), arena->base() + arena->bytes(),
                          [](std::byte b) { return b == std::byte{0}; }));
}

TEST(Arena, SlotsLieBetweenHeaderAndPoolsEachOnItsOwnCacheLine) {
  const Arena arena = Arena::Create(kMiB, 1).value();
  const auto offset = [&](uint32_t slot) {
    return reinterpret_cast<std::byte*>(arena.slot(slot)) - arena.base();
  };
  EXPECT_EQ(offset(0), static_cast<int64_t>(sizeof(ArenaHeader)));
  EXPECT_EQ(offset(1) - offset(0), 64);
  EXPECT_LE(offset(kArenaSlots - 1) + 64, arena.pools_offset());
  EXPECT_TRUE(arena.slot(0)->committed_tokens.is_lock_free()) << "it is shared between processes";
}

TEST(Arena, ItsDescriptorMapsTheSameBytesAndCannotBeResized) {
  const Arena arena = Arena::Create(kMiB, 1).value();
  struct stat status = {};
  ASSERT_EQ(::fstat(arena.fd(), &status), 0);
  EXPECT_EQ(status.st_size, arena.bytes());
  EXPECT_NE(::ftruncate(arena.fd(), arena.bytes() / 2), 0);
  EXPECT_NE(::ftruncate(arena.fd(), arena.bytes() * 2), 0);
  const int seals = ::fcntl(arena.fd(), F_GET_SEALS);
  EXPECT_EQ(seals & (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL),
            F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
  void* other = ::mmap(nullptr, arena.bytes(), PROT_READ, MAP_SHARED, arena.fd(), 0);
  ASSERT_NE(other, MAP_FAILED);
  arena.base()[arena.bytes() - 1] = std::byte{99};
  EXPECT_EQ(static_cast<const std::byte*>(other)[arena.bytes() - 1], std::byte{99});
  ::munmap(other, arena.bytes());
}

TEST(Arena, MoreThanTheHostHasIsRefusedWithTheShortfallInBytes) {
  const int64_t asked = int64_t{1} << 46;
  const auto refused = Arena::Create(asked, 1);
  ASSERT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted) << refused.status();
  // "arena of N bytes needs M bytes more than the host has free (A)": N = M + A.
  const std::string text(refused.status().message());
  int64_t bytes = 0, missing = 0, available = 0;
  ASSERT_EQ(std::sscanf(text.c_str(),
                        "arena of %ld bytes needs %ld bytes more than the host has free (%ld)",
                        &bytes, &missing, &available),
            3)
      << text;
  EXPECT_EQ(bytes, asked);
  EXPECT_EQ(missing + available, asked);
  EXPECT_GT(available, 0);
}

TEST(Arena, SizesOutOfRangeAreRefused) {
  for (const int64_t bytes :
       {kMiB - 1, int64_t{0}, int64_t{-1}, std::numeric_limits<int64_t>::min(),
        (int64_t{1} << 47) + 1, std::numeric_limits<int64_t>::max()}) {
    EXPECT_EQ(Arena::Create(bytes, 1).status().code(), absl::StatusCode::kInvalidArgument) << bytes;
  }
}

TEST(Arena, TheKindOfItsPagesIsNamed) {
  const Arena arena = Arena::Create(kMiB, 1).value();
  EXPECT_NE(ToString(arena.backing()), "unknown");
  EXPECT_EQ(ToString(PageBacking::kHugeTlb), "2 MiB pages (reserved)");
  EXPECT_EQ(ToString(PageBacking::kTransparentHuge), "transparent huge pages");
  EXPECT_EQ(ToString(PageBacking::kPlain), "4 KiB pages");
}

TEST(Arena, MovingHandsTheMappingOver) {
  Arena first = Arena::Create(kMiB, 7).value();
  std::byte* base = first.base();
  const Arena second = std::move(first);
  EXPECT_EQ(second.base(), base);
  EXPECT_EQ(reinterpret_cast<const ArenaHeader*>(second.base())->epoch, 7u);
}

}  // namespace
}  // namespace tailor
