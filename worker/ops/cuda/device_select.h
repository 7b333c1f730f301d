// Selection of dominant rows on the device, with no CPU in the loop: critical channels, approximate
// scores from the 4-bit index, the heads' vote, the second look at exact keys, top-k, gather. The
// tokens of kvstore/select, index for index (ALGORITHM §3.3-3.5). Knows no CUDA header; a backend
// has one where it has these kernels (Backend::device_select).
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "common/bfloat16.h"
#include "common/matrix_view.h"
#include "common/types.h"
#include "worker/ops/cuda/index_page.h"

namespace tailor {

// Pointers lead to device memory, or to mapped memory of the host; spans are the host's.
struct DeviceSelection {
  MatrixView<const float> q;  // [1][q_heads * head_dim]
  int32_t kv_heads = 0, head_dim = 0;
  ScoreRule rule = ScoreRule::kHeadsVote;
  int32_t channels = 24, top_k = 128, sink_tokens = 8, rescore_extra = 64;  // SelectParams
  std::span<const float> kmax;  // [kv_heads][head_dim], over all pages
  const IndexPage* pages = nullptr;
  int32_t page_count = 0;
  IndexStrides strides;
  int32_t index_slice = 0, row_slice = 0;  // of KV head 0
  // Where the answer goes: Count() tokens a KV head, ascending, and their rows.
  int32_t* tokens = nullptr;  // [kv_heads][count]
  BFloat16* rows = nullptr;   // [kv_heads][count][2][head_dim]
  GatherReport* report =
      nullptr;  // in device memory: every row that comes from the store is checked
  RowCache cache = {};

  int32_t Candidates() const { return std::max(0, page_count * kPageTokens - sink_tokens); }
  int32_t Count() const { return std::min(top_k, Candidates()); }
};

class DeviceSelect {
 public:
  virtual ~DeviceSelect() = default;
  // Enqueued on the backend's stream, in order with its ops; returns at once.
  virtual void Select(const DeviceSelection& selection) = 0;
  // Copies the index of each page, `slices` slices of it, to its sketch (SketchBytes). Enqueued.
  virtual void CopyIndex(std::span<const IndexPage> pages, const IndexStrides& strides,
                         int32_t slices, int32_t head_dim,
                         std::span<std::byte* const> sketches) = 0;
};

}  // namespace tailor
