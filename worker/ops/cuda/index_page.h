// The store's index as a device reads it (kvstore/layout.h): in place, or in a copy of its own.
// Free of everything nvcc need not see.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tailor {

// Where one sealed page begins in each array, at slice 0; a slice is one layer and KV head.
struct IndexPage {
  const uint8_t* codes = nullptr;  // [head_dim][64], two tokens a byte: kvstore/select/key_codes.h
  const float *scale = nullptr, *min = nullptr;  // [head_dim]
  const uint16_t* rows = nullptr;                // [page_tokens][2][head_dim] bf16
  const uint32_t* checks = nullptr;              // [page_tokens], of the rows
};
// From one slice to the next, in elements of the array.
struct IndexStrides {
  int64_t codes = 0, params = 0, rows = 0, checks = 0;
};
// What gathers found since this was zero.
struct GatherReport {
  uint32_t bad_rows = 0;  // whose check failed; the first of them:
  int32_t bad_slice = 0, bad_token = 0;
  uint32_t cached_rows = 0;  // that came out of a row cache
};
// A row cache of every KV head of one layer (row_cache.h), in device memory, zero at first.
struct RowCache {
  uint16_t* rows = nullptr;  // [kv_heads][slots][2][head_dim]
  int32_t* tags = nullptr;   // [kv_heads][slots]
  uint32_t* used = nullptr;  // [kv_heads][slots]
  int32_t slots = 0;         // a multiple of kRowCacheWays; 0: no cache
  uint32_t step = 0;         // greater at every selection
};
inline constexpr int32_t kRowCacheWays = 4;

// GroupRule of kvstore/select: the group's mean query scores, or its query heads vote.
enum class ScoreRule : int32_t { kMeanQuery, kHeadsVote };

inline constexpr int32_t kIndexCodeBytes = 64;  // of one channel of a page

// A device's own copy of one page's index, over all slices: codes, then scales, then minima.
inline int64_t SketchBytes(int32_t slices, int32_t head_dim) {
  return int64_t{slices} * head_dim * (kIndexCodeBytes + 2 * static_cast<int64_t>(sizeof(float)));
}
inline IndexPage SketchPage(const IndexPage& store, const std::byte* sketch, int32_t slices,
                            int32_t head_dim) {
  const auto* params =
      reinterpret_cast<const float*>(sketch + int64_t{slices} * head_dim * kIndexCodeBytes);
  return {.codes = reinterpret_cast<const uint8_t*>(sketch),
          .scale = params,
          .min = params + int64_t{slices} * head_dim,
          .rows = store.rows,
          .checks = store.checks};
}

}  // namespace tailor
