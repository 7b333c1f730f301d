// The mean rows of a sequence's sealed pages in one sparse layer, in worker memory: what stands for
// the tokens that a step does not attend to themselves. ALGORITHM §3.5. 1/128 of the pages' rows.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kvstore/layout.h"
#include "worker/ops/backend.h"

namespace tailor {

class MeanRows {
 public:
  MeanRows(Backend* backend, int32_t layer, int32_t kv_heads, int32_t head_dim)
      : backend_(backend), layer_(layer), kv_heads_(kv_heads), head_dim_(head_dim) {}

  // Memory comes in blocks of kBlockPages pages, so that no row moves when the sequence grows.
  static constexpr int64_t kBlockPages = 32;
  static int64_t Bytes(int32_t kv_heads, int32_t head_dim, int64_t pages);

  // Copies the mean rows of pages[pages(), pages.size()) from the store.
  // Errors: ResourceExhausted from the backend's memory budget.
  absl::Status Extend(const PoolView& pool, std::span<const PageId> pages);
  int64_t pages() const { return pages_; }
  int64_t bytes() const { return Bytes(kv_heads_, head_dim_, pages_); }
  void AppendSegments(int32_t kv_head, std::vector<RowSegment>* out) const;

 private:
  BFloat16* Row(int32_t kv_head, int64_t page) const;

  Backend* backend_;
  int32_t layer_, kv_heads_, head_dim_;
  int64_t pages_ = 0;
  std::vector<DeviceBuffer> blocks_;  // [kv_heads][kBlockPages][2][head_dim] bf16 each
};

}  // namespace tailor
