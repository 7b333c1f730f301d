// Rows of a layer and KV head that the device keeps because neighbouring steps choose much the same
// tokens: sets of four, the least recently used gives way. A plan comes before the gather, a thread
// a set, so what it does depends on no order of threads. Rows of sealed pages never change.
#pragma once

#include "worker/ops/cuda/host_device.h"
#include "worker/ops/cuda/index_page.h"

namespace tailor::cuda {

// Where a chosen row comes from: a slot; or the store, to be kept in slot FillSlot, or not to be
// kept.
inline constexpr int32_t kNotKept = -1;
TS_HD int32_t FillFrom(int32_t slot) { return -2 - slot; }
TS_HD int32_t FillSlot(int32_t source) { return -2 - source; }

// The slot of a token, or -1. tags: of one head, token + 1, zero when empty.
TS_HD int32_t FindRow(const int32_t* tags, int32_t slots, int32_t token) {
  const int32_t first = token % (slots / kRowCacheWays) * kRowCacheWays;
  for (int32_t slot = first; slot < first + kRowCacheWays; ++slot) {
    if (tags[slot] == token + 1) return slot;
  }
  return -1;
}

// One set's part of a plan: sources of those of the `count` tokens that fall into it. used: the
// step of each slot's last use; `step` is greater than all of them. Returns the hits.
TS_HD int32_t PlanSet(int32_t* tags, uint32_t* used, int32_t slots, int32_t set, uint32_t step,
                      const int32_t* tokens, int32_t count, int32_t* sources) {
  const int32_t sets = slots / kRowCacheWays;
  int32_t hits = 0, misses = 0;
  for (int32_t i = 0; i < count; ++i) {
    if (tokens[i] % sets != set) continue;
    sources[i] = FindRow(tags, slots, tokens[i]);
    if (sources[i] >= 0) used[sources[i]] = step;
    (sources[i] >= 0 ? hits : misses) += 1;
  }
  for (int32_t i = 0; misses > 0 && i < count; ++i) {
    if (tokens[i] % sets != set || sources[i] >= 0) continue;
    --misses;
    int32_t oldest = set * kRowCacheWays;
    for (int32_t way = 1; way < kRowCacheWays; ++way) {
      if (used[set * kRowCacheWays + way] < used[oldest]) oldest = set * kRowCacheWays + way;
    }
    if (used[oldest] == step)
      continue;  // all of the set are this step's: sources[i] stays kNotKept
    tags[oldest] = tokens[i] + 1;
    used[oldest] = step;
    sources[i] = FillFrom(oldest);
  }
  return hits;
}
static_assert(kNotKept == -1);  // what FindRow leaves

}  // namespace tailor::cuda
