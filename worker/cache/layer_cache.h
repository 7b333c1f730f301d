// One layer's KV of one sequence, as its class of layer keeps it: quantized, offloaded or full.
// The store's pages are the truth; a layer cache is a deterministic function of their rows, so a
// forked or reattached sequence continues exactly like its original.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kvstore/client/kv_client.h"
#include "kvstore/layout.h"
#include "worker/ops/backend.h"

namespace tailor {

class LayerRows;

// A sequence's pages, as of now. tokens counts those whose rows are in the pages, or on their way.
struct PagedRows {
  const PoolView* pool = nullptr;
  std::span<const PageId> pages;
  int64_t sealed_pages = 0;
  int64_t tokens = 0;
  // During a prefill: the same rows of the layer at hand in device memory, all tokens.
  const LayerRows* on_device = nullptr;

  // Where ops find the rows of tokens [page * kPageTokens, ...) of one layer and KV head.
  const BFloat16* Rows(int32_t layer, int32_t kv_head, int64_t page) const;
};

// Per-sequence scratch that its layers share: segment lists of one Attend call.
struct AttendScratch {
  std::vector<std::vector<RowSegment>> segments;            // [kv_heads]
  std::vector<std::span<const RowSegment>> segment_spans;   // [kv_heads]
  std::vector<std::vector<RowSegment>> means;               // [kv_heads], mostly empty
  std::vector<std::span<const RowSegment>> mean_spans;
  std::vector<std::vector<const std::byte*>> pages;         // [kv_heads]
  std::vector<std::span<const std::byte* const>> page_spans;

  void Clear(int32_t kv_heads);
  std::span<const std::span<const RowSegment>> Segments();
  std::span<const std::span<const RowSegment>> Means();
  std::span<const std::span<const std::byte* const>> Pages();
};

struct LayerBytes {
  int64_t codes = 0;     // quantized codes and params
  int64_t resident = 0;  // full-precision rows
  int64_t sketch = 0;    // a device's copies of the index
  int64_t row_cache = 0;  // rows a device keeps of those it fetched
  int64_t total() const { return codes + resident + sketch + row_cache; }
};

// Rows of one decode step's attention.
struct AttendCall {
  MatrixView<const float> q;  // [1][q_heads * head_dim]
  int64_t tokens = 0;         // visible tokens, the newest included
  SelectedRows fetched;       // sparse layers: dominant rows; else empty
  MatrixView<float> out;      // [1][q_heads * head_dim]
  MatrixView<float> lse;      // optional, [1][q_heads]; quantized layers leave it
  bool with_tail = true;  // sparse layers: the estimate of what was not fetched, if they make one
};

class LayerCache {
 public:
  virtual ~LayerCache() = default;
  // Brings the cache up to `rows` after a prefill, an attach or a fork: reads only what is new.
  // Errors: ResourceExhausted from the backend's memory budget.
  virtual absl::Status Extend(const PagedRows& rows) = 0;
  // Pages below rows.sealed_pages are sealed in the store: takes over what a seal computes. Called
  // after Extend, before the next Attend. Errors: as Extend.
  virtual absl::Status LoadSealed(const PagedRows&) { return absl::OkStatus(); }
  // Where the next token's rows go in worker memory, one pointer a KV head: [2][head_dim] each.
  virtual void NewRows(int64_t position, std::span<BFloat16*> out) = 0;
  virtual void Attend(const AttendCall& call, AttendScratch& scratch) = 0;
  // The page has just been sealed: it is the oldest in the window.
  virtual absl::Status Seal(const PagedRows& rows, int64_t page) = 0;
  virtual LayerBytes bytes() const = 0;
};

}  // namespace tailor
