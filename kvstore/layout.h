// Where every byte of a pool lies: the contract between worker and store (docs/ARCHITECTURE.md §3).
// A pool is a fixed number of pages kept as arrays, so that one layer and head scans contiguous
// memory:
//
//   headers      [page]                                             PageHeader
//   tokens       [page][page_tokens]                                int32
//   rows         [layer][kv_head][page][page_tokens][2][head_dim]   bf16, K then V of one token
//   row_checks   [layer][kv_head][page][page_tokens]                uint32, XXH3 of the row, see
//   seal index        [sparse][kv_head][page][head_dim][page_tokens]     4 bits, channel-major keys
//   index_scale  [sparse][kv_head][page][head_dim]                  fp32, key = code * scale + min
//   index_min    [sparse][kv_head][page][head_dim]                  fp32
//   kmax         [sparse][kv_head][page][head_dim]                  fp32, max |K| of the page
//   mean_rows    [sparse][kv_head][page][2][head_dim]               bf16, mean K then mean V
//
// `rows` covers every layer, quantized ones too: a new turn then attends exactly to the past and a
// new worker rebuilds its codes bit for bit (docs/decisions/0002-rows-for-every-layer.md). The
// other arrays exist for sparse layers only; `sparse` is the layer's rank among them. The worker
// writes tokens and rows of open pages; the store alone writes everything else, when a page is
// sealed.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "common/bfloat16.h"
#include "common/types.h"

namespace tailor {

// What decides a pool's bytes. Two pools with equal shapes have equal layouts.
struct PoolShape {
  int32_t layers = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;                 // a multiple of 16
  std::vector<int32_t> sparse_layers;   // ascending; the layers that have an index

  // Errors: InvalidArgument, "pool has N layers, limit 1024" and the like.
  absl::Status Validate() const;
  friend bool operator==(const PoolShape&, const PoolShape&) = default;
};

enum class PageState : uint32_t { kFree = 0, kOpen = 1, kSealed = 2 };

// Kept in the arena so that a restarted or other process can check what it maps.
struct PageHeader {
  uint32_t version;          // kLayoutVersion
  PageState state;
  uint64_t owner_sequence;   // the sequence that filled it
  uint64_t generation;       // grows each time the page is handed out
  uint64_t checksum;         // XXH3-64 over tokens and all row_checks, set at seal
  uint8_t reserved[32];
};
static_assert(sizeof(PageHeader) == 64);
static_assert(offsetof(PageHeader, owner_sequence) == 8);
static_assert(offsetof(PageHeader, checksum) == 24);

inline constexpr uint32_t kLayoutVersion = 3;

// Byte offsets from the pool's first byte, all overflow-checked once in Make.
class PoolLayout {
 public:
  // Errors: InvalidArgument for a bad shape or page count, or when the pool passes 2^47 bytes.
  static absl::StatusOr<PoolLayout> Make(const PoolShape& shape, int64_t pages);
  // The most pages whose pool fits in `bytes`; 0 when not even one does.
  static absl::StatusOr<int64_t> PagesThatFit(const PoolShape& shape, int64_t bytes);

  const PoolShape& shape() const { return shape_; }
  int64_t pages() const { return pages_; }
  int64_t bytes() const { return bytes_; }            // of the whole pool
  int64_t page_bytes() const { return page_bytes_; }  // of one page over all arrays
  int32_t SparseRank(int32_t layer) const { return sparse_rank_[layer]; }  // -1: no index

  // Element offsets below are in bytes.
  int64_t HeaderOffset(PageId page) const;
  int64_t TokensOffset(PageId page) const;
  int64_t RowsOffset(int32_t layer, int32_t kv_head, PageId page) const;
  int64_t RowChecksOffset(int32_t layer, int32_t kv_head, PageId page) const;
  int64_t IndexOffset(int32_t sparse_rank, int32_t kv_head, PageId page) const;
  int64_t IndexScaleOffset(int32_t sparse_rank, int32_t kv_head, PageId page) const;
  int64_t IndexMinOffset(int32_t sparse_rank, int32_t kv_head, PageId page) const;
  int64_t KmaxOffset(int32_t sparse_rank, int32_t kv_head, PageId page) const;
  int64_t MeanRowOffset(int32_t sparse_rank, int32_t kv_head, PageId page) const;

 private:
  PoolShape shape_;
  std::vector<int32_t> sparse_rank_;  // [layers]
  int64_t pages_ = 0, bytes_ = 0, page_bytes_ = 0;
  int64_t headers_ = 0, tokens_ = 0, rows_ = 0, row_checks_ = 0;
  int64_t index_ = 0, index_scale_ = 0, index_min_ = 0, kmax_ = 0, mean_rows_ = 0;  // starts
};

// A pool as this process maps it. Non-owning; valid while the arena is mapped.
class PoolView {
 public:
  PoolView() = default;
  PoolView(std::byte* base, PoolLayout layout) : base_(base), layout_(std::move(layout)) {}

  const PoolLayout& layout() const { return layout_; }
  const PoolShape& shape() const { return layout_.shape(); }
  std::span<std::byte> bytes() const { return {base_, static_cast<size_t>(layout_.bytes())}; }

  PageHeader* Header(PageId page) const {
    return reinterpret_cast<PageHeader*>(base_ + layout_.HeaderOffset(page));
  }
  TokenId* Tokens(PageId page) const {  // [page_tokens]
    return reinterpret_cast<TokenId*>(base_ + layout_.TokensOffset(page));
  }
  BFloat16* Rows(int32_t layer, int32_t kv_head, PageId page) const {  // [page_tokens][2][head_dim]
    return reinterpret_cast<BFloat16*>(base_ + layout_.RowsOffset(layer, kv_head, page));
  }
  uint32_t* RowChecks(int32_t layer, int32_t kv_head, PageId page) const {  // [page_tokens]
    return reinterpret_cast<uint32_t*>(base_ + layout_.RowChecksOffset(layer, kv_head, page));
  }
  uint8_t* Index(int32_t sparse_rank, int32_t kv_head, PageId page) const {  // [head_dim][64]
    return reinterpret_cast<uint8_t*>(base_ + layout_.IndexOffset(sparse_rank, kv_head, page));
  }
  float* IndexScale(int32_t sparse_rank, int32_t kv_head, PageId page) const {  // [head_dim]
    return reinterpret_cast<float*>(base_ + layout_.IndexScaleOffset(sparse_rank, kv_head, page));
  }
  float* IndexMin(int32_t sparse_rank, int32_t kv_head, PageId page) const {  // [head_dim]
    return reinterpret_cast<float*>(base_ + layout_.IndexMinOffset(sparse_rank, kv_head, page));
  }
  float* Kmax(int32_t sparse_rank, int32_t kv_head, PageId page) const {  // [head_dim]
    return reinterpret_cast<float*>(base_ + layout_.KmaxOffset(sparse_rank, kv_head, page));
  }
  BFloat16* MeanRow(int32_t sparse_rank, int32_t kv_head, PageId page) const {  // [2][head_dim]
    return reinterpret_cast<BFloat16*>(base_ + layout_.MeanRowOffset(sparse_rank, kv_head, page));
  }

 private:
  std::byte* base_ = nullptr;
  PoolLayout layout_;
};

}  // namespace tailor
