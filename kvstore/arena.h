// The store's host memory: one memfd, mapped, pre-faulted and sealed against resizing. It has no
// name; workers get its descriptor over the store's socket. Layout: an ArenaHeader, the slot table,
// then pools.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"
#include "common/unique_handle.h"

namespace tailor {

inline constexpr uint32_t kArenaMagic = 0x41565354;  // "TSVA" in memory
inline constexpr uint32_t kArenaVersion = 1;
inline constexpr uint32_t kArenaSlots = 4096;  // sequences that can be attached at once

struct ArenaHeader {
  uint32_t magic;
  uint32_t version;
  uint64_t epoch;              // of the store's boot
  uint64_t bytes;              // of the arena
  uint64_t slot_table_offset;  // SequenceSlot [slot_count]
  uint64_t slot_count;
  uint64_t pools_offset;
  uint8_t reserved[16];
};
static_assert(sizeof(ArenaHeader) == 64 && offsetof(ArenaHeader, pools_offset) == 40);

// Where a worker publishes how far a sequence's rows are written.
struct SequenceSlot {
  std::atomic<uint64_t> generation;        // written by the store; 0: unused
  std::atomic<int64_t> committed_tokens;   // worker's release pairs with the store's acquire
  std::atomic<uint64_t> budget;            // PackBudget; written before the commit that it goes with
  uint8_t reserved[40];
};
static_assert(sizeof(SequenceSlot) == 64 && offsetof(SequenceSlot, committed_tokens) == 8);
static_assert(offsetof(SequenceSlot, budget) == 16);

// How often a sequence's budget has doubled, and from which token on the last time: a worker that
// dies before the commit of that token has not doubled it yet.
inline constexpr int kMaxBudgetDoublings = 16;
constexpr uint64_t PackBudget(int32_t doublings, int64_t from_token) {
  return static_cast<uint64_t>(doublings) << 48 | static_cast<uint64_t>(from_token);
}
// The worker's word, bounded: what holds for a sequence of `committed` tokens.
constexpr int32_t BudgetDoublings(uint64_t packed, int64_t committed) {
  const auto from_token = static_cast<int64_t>(packed & ((uint64_t{1} << 48) - 1));
  const auto doublings = static_cast<int32_t>(packed >> 48);
  const int32_t held = doublings > kMaxBudgetDoublings ? kMaxBudgetDoublings : doublings;
  return from_token > committed && held > 0 ? held - 1 : held;
}

enum class PageBacking { kHugeTlb, kTransparentHuge, kPlain };
std::string_view ToString(PageBacking backing);

class Arena {
 public:
  // Errors: ResourceExhausted "arena of N bytes needs M bytes more than the host has free (A)";
  // InvalidArgument outside 2^20..2^47.
  static absl::StatusOr<Arena> Create(int64_t bytes, uint64_t epoch);

  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&&) = delete;
  ~Arena();

  int fd() const { return fd_.get(); }
  std::byte* base() const { return base_; }
  int64_t bytes() const { return bytes_; }
  PageBacking backing() const { return backing_; }
  uint64_t slot_table_offset() const;
  int64_t pools_offset() const;
  SequenceSlot* slot(uint32_t index) const;

 private:
  Arena(UniqueFd fd, std::byte* base, int64_t bytes, PageBacking backing)
      : fd_(std::move(fd)), base_(base), bytes_(bytes), backing_(backing) {}

  UniqueFd fd_;
  std::byte* base_;
  int64_t bytes_;
  PageBacking backing_;
};

// Bytes this process may still take: MemAvailable, or less under a cgroup limit.
int64_t AvailableHostBytes();

}  // namespace tailor
