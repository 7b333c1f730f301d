// Which detached sequences give way: a pure function of a snapshot.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace tailor {

struct EvictionCandidate {
  uint64_t sequence = 0;
  uint64_t last_used = 0;       // grows with every use
  int64_t exclusive_pages = 0;  // freed for sure when it goes; shared ones may stay
};

// Least recently used first, until `pages_needed` are freed. nullopt when all together free too few:
// nothing is to be evicted then.
std::optional<std::vector<uint64_t>> PlanEviction(std::span<const EvictionCandidate> candidates,
                                                  int64_t pages_needed);

}  // namespace tailor
