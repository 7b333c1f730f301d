// Which detached sequences give way: a pure function of a snapshot.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/types.h"

namespace tailor {

struct EvictionCandidate {
  uint64_t sequence = 0;
  uint64_t last_used = 0;          // grows with every use: no two are equal
  std::span<const PageId> pages;   // that it lists
};

struct EvictionPlan {
  std::vector<uint64_t> sequences;  // least recently used first
  int64_t freed_pages = 0;          // when all of them go
};

// Least recently used first, until `pages_needed` are freed; a page is freed when all that list it
// go. Spares those that free nothing, because others keep all their pages. When all together free
// fewer than needed, the plan says how many, and nothing is to be evicted.
// references: [pages] of the pool, by all its sequences.
EvictionPlan PlanEviction(std::span<const EvictionCandidate> candidates,
                          std::span<const uint32_t> references, int64_t pages_needed);

}  // namespace tailor
