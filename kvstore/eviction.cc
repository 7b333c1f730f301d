#include "kvstore/eviction.h"

#include <algorithm>

namespace tailor {

std::optional<std::vector<uint64_t>> PlanEviction(std::span<const EvictionCandidate> candidates,
                                                  int64_t pages_needed) {
  std::vector<EvictionCandidate> order(candidates.begin(), candidates.end());
  std::sort(order.begin(), order.end(), [](const EvictionCandidate& a, const EvictionCandidate& b) {
    return a.last_used < b.last_used;
  });
  std::vector<uint64_t> plan;
  for (const EvictionCandidate& candidate : order) {
    if (pages_needed <= 0) break;
    if (candidate.exclusive_pages == 0) continue;
    plan.push_back(candidate.sequence);
    pages_needed -= candidate.exclusive_pages;
  }
  if (pages_needed > 0) return std::nullopt;
  return plan;
}

}  // namespace tailor
