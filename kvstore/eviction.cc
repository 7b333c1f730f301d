#include "kvstore/eviction.h"

#include <algorithm>

namespace tailor {

EvictionPlan PlanEviction(std::span<const EvictionCandidate> candidates,
                          std::span<const uint32_t> references, int64_t pages_needed) {
  std::vector<const EvictionCandidate*> order;
  for (const EvictionCandidate& candidate : candidates) order.push_back(&candidate);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return a->last_used < b->last_used;
  });
  std::vector<uint32_t> left(references.begin(), references.end());
  EvictionPlan plan;
  size_t going = 0;
  for (; going < order.size() && plan.freed_pages < pages_needed; ++going) {
    for (const PageId page : order[going]->pages) plan.freed_pages += --left[Index(page)] == 0;
  }
  // Sparing these changes nothing: their pages are still listed by others.
  const auto frees_some = [&](const EvictionCandidate* candidate) {
    return std::any_of(candidate->pages.begin(), candidate->pages.end(),
                       [&](PageId page) { return left[Index(page)] == 0; });
  };
  for (size_t i = 0; i < going; ++i) {
    if (frees_some(order[i])) plan.sequences.push_back(order[i]->sequence);
  }
  return plan;
}

}  // namespace tailor
