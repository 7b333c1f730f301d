// Full-precision rows of a sequence's newest pages in one layer, in worker memory: the resident
// window of sparse layers, the residual of quantized ones.
// One buffer a page, [kv_heads][page_tokens][2][head_dim] bf16; page p lies in slot p % slots, so a
// page that leaves the window gives its buffer to the page that enters.
#pragma once

#include <cstdint>
#include <vector>

#include "worker/cache/copy_list.h"
#include "worker/cache/layer_cache.h"

namespace tailor {

class ResidentWindow {
 public:
  ResidentWindow(Backend* backend, int32_t kv_heads, int32_t head_dim)
      : backend_(backend), kv_heads_(kv_heads), head_dim_(head_dim) {}

  static int64_t PageBytes(int32_t kv_heads, int32_t head_dim) {
    return int64_t{kv_heads} * kPageTokens * 2 * head_dim * static_cast<int64_t>(sizeof(BFloat16));
  }

  // Makes room for `slots` pages, before the first row.
  absl::Status EnsureSlots(int64_t slots);
  int64_t slots() const { return static_cast<int64_t>(buffers_.size()); }
  int64_t bytes() const { return slots() * PageBytes(kv_heads_, head_dim_); }

  // The row [2][head_dim] of the token at `position` of one KV head.
  BFloat16* Row(int32_t kv_head, int64_t position) const;
  // Adds what copies tokens [first, rows.tokens) of every KV head from their pages.
  void AddCopies(const PagedRows& rows, int32_t layer, int64_t first, CopyList* copies) const;
  // Appends segments covering positions [first, last) to `out`, in order.
  void AppendSegments(int32_t kv_head, int64_t first, int64_t last,
                      std::vector<RowSegment>* out) const;

 private:
  Backend* backend_;
  int32_t kv_heads_, head_dim_;
  std::vector<DeviceBuffer> buffers_;
};

}  // namespace tailor
