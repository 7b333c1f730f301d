// Selection of dominant rows on the device (ALGORITHM §3.3-3.5): critical channels, approximate
// scores, exact top-k, gather; no CPU in the loop. The published rule: the store's own index and rule
// (docs/decisions/0004-selection.md) have no kernel yet. Knows no CUDA header; a CUDA backend has one (worker/ops/cuda_loader.h).
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "common/bfloat16.h"
#include "common/matrix_view.h"
#include "common/types.h"
#include "worker/ops/quantized_page.h"

namespace tailor {

// Pointers lead to device memory, or to mapped memory of the host; lists are the host's.
struct DeviceSelection {
  MatrixView<const float> q;  // [1][q_heads * head_dim]
  int32_t kv_heads = 0, head_dim = 0;
  int32_t channels = 8, top_k = 128, sink_tokens = 8;
  const float* kmax = nullptr;  // [kv_heads][head_dim], over all pages
  int32_t pages = 0;            // of each KV head, in order
  // Keys of each page, [kv_heads][pages]: with bits 0 the published 8-bit index, channel-major codes
  // [head_dim][page_tokens] = round(K / scale) with scale = max |K| / 127 of each channel; with 2 or 4
  // the key sketch (SketchPage).
  int32_t bits = 0;
  std::span<const std::byte* const> keys;
  std::span<const float* const> key_scales;    // of the index; else empty
  std::span<const BFloat16* const> row_pages;  // [kv_heads][pages], [page_tokens][2][head_dim] each
  // Where the answer goes: min(top_k, candidates) tokens a KV head, ascending, and their rows.
  int32_t* tokens = nullptr;  // [kv_heads][count]
  BFloat16* rows = nullptr;   // [kv_heads][count][2][head_dim]
  int32_t Count() const { return std::min(top_k, std::max(0, pages * kPageTokens - sink_tokens)); }
};

class DeviceSelect {
 public:
  virtual ~DeviceSelect() = default;
  // Enqueued on the backend's stream, in order with its ops.
  virtual void Select(const DeviceSelection& selection) = 0;
  // The key sketch of one page: the K half of a quantized page, SketchPageBytes(shape).
  virtual void SketchPage(const BFloat16* rows, const QuantizedPageShape& shape,
                          std::byte* sketch) = 0;
};

inline int64_t SketchPageBytes(const QuantizedPageShape& shape) { return shape.PageBytes() / 2; }

}  // namespace tailor
