#include "kvstore/layout.h"

#include <algorithm>

#include "common/status.h"

namespace tailor {
namespace {

constexpr int64_t kMaxPoolBytes = int64_t{1} << 47;
constexpr int64_t kArrayAlignment = 4096;
constexpr int64_t kMaxPages = int64_t{1} << 31;

int64_t AlignUp(int64_t value) {
  return (value + kArrayAlignment - 1) / kArrayAlignment * kArrayAlignment;
}

// Bytes of one page of one (layer, head) in each array.
int64_t RowsBytes(const PoolShape& s) { return int64_t{kPageTokens} * 2 * s.head_dim * 2; }
int64_t ChecksBytes() { return int64_t{kPageTokens} * 4; }
int64_t IndexBytes(const PoolShape& s) { return int64_t{kPageTokens} / 2 * s.head_dim; }
int64_t ChannelBytes(const PoolShape& s) {
  return int64_t{s.head_dim} * 4;
}  // fp32, or K and V in bf16

absl::Status CheckRange(const char* what, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("pool has ", value, " ", what, ", limit ", low, "..", high));
}

}  // namespace

absl::Status PoolShape::Validate() const {
  TS_RETURN_IF_ERROR(CheckRange("layers", layers, 1, 1024));
  TS_RETURN_IF_ERROR(CheckRange("kv_heads", kv_heads, 1, 1024));
  TS_RETURN_IF_ERROR(CheckRange("head_dim", head_dim, 16, 1024));
  if (head_dim % 16 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("pool has head_dim ", head_dim, ", needs a multiple of 16"));
  }
  for (size_t i = 0; i < sparse_layers.size(); ++i) {
    TS_RETURN_IF_ERROR(CheckRange("as a sparse layer", sparse_layers[i], 0, layers - 1));
    if (i > 0 && sparse_layers[i] <= sparse_layers[i - 1]) {
      return absl::InvalidArgumentError("pool's sparse layers are not ascending");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<PoolLayout> PoolLayout::Make(const PoolShape& shape, int64_t pages) {
  TS_RETURN_IF_ERROR(shape.Validate());
  TS_RETURN_IF_ERROR(CheckRange("pages", pages, 1, kMaxPages));
  PoolLayout layout;
  layout.shape_ = shape;
  layout.pages_ = pages;
  layout.sparse_rank_.assign(shape.layers, -1);
  for (size_t rank = 0; rank < shape.sparse_layers.size(); ++rank) {
    layout.sparse_rank_[shape.sparse_layers[rank]] = static_cast<int32_t>(rank);
  }
  const int64_t all = int64_t{shape.layers} * shape.kv_heads;
  const int64_t sparse = static_cast<int64_t>(shape.sparse_layers.size()) * shape.kv_heads;
  int64_t next = 0;
  // Per page and in all; every factor is bounded above, so nothing overflows before the check.
  const auto take = [&](int64_t bytes_a_page) {
    const int64_t start = next;
    layout.page_bytes_ += bytes_a_page;
    next = next > kMaxPoolBytes ? next : AlignUp(next + bytes_a_page * pages);
    return start;
  };
  TS_RETURN_IF_ERROR(CheckRange("bytes a page", all * (RowsBytes(shape) + ChecksBytes()), 0,
                                kMaxPoolBytes / pages));
  layout.headers_ = take(sizeof(PageHeader));
  layout.tokens_ = take(int64_t{kPageTokens} * 4);
  layout.rows_ = take(all * RowsBytes(shape));
  layout.row_checks_ = take(all * ChecksBytes());
  layout.index_ = take(sparse * IndexBytes(shape));
  layout.index_scale_ = take(sparse * ChannelBytes(shape));
  layout.index_min_ = take(sparse * ChannelBytes(shape));
  layout.kmax_ = take(sparse * ChannelBytes(shape));
  layout.mean_rows_ = take(sparse * ChannelBytes(shape));
  TS_RETURN_IF_ERROR(CheckRange("bytes", next, 0, kMaxPoolBytes));
  layout.bytes_ = next;
  return layout;
}

absl::StatusOr<int64_t> PoolLayout::PagesThatFit(const PoolShape& shape, int64_t bytes) {
  TS_ASSIGN_OR_RETURN(const PoolLayout one, Make(shape, 1));
  bytes = std::clamp<int64_t>(bytes, 0, kMaxPoolBytes);
  int64_t pages = std::min(bytes / one.page_bytes(), kMaxPages);
  // Alignment takes a little more than pages * page_bytes: a few steps at most.
  for (; pages > 0; --pages) {
    const auto layout = Make(shape, pages);
    if (layout.ok() && layout->bytes() <= bytes) break;
  }
  return pages;
}

int64_t PoolLayout::HeaderOffset(PageId page) const {
  return headers_ + Index(page) * static_cast<int64_t>(sizeof(PageHeader));
}
int64_t PoolLayout::TokensOffset(PageId page) const {
  return tokens_ + Index(page) * int64_t{kPageTokens} * 4;
}
int64_t PoolLayout::RowsOffset(int32_t layer, int32_t kv_head, PageId page) const {
  const int64_t slice = int64_t{layer} * shape_.kv_heads + kv_head;
  return rows_ + (slice * pages_ + Index(page)) * RowsBytes(shape_);
}
int64_t PoolLayout::RowChecksOffset(int32_t layer, int32_t kv_head, PageId page) const {
  const int64_t slice = int64_t{layer} * shape_.kv_heads + kv_head;
  return row_checks_ + (slice * pages_ + Index(page)) * ChecksBytes();
}
int64_t PoolLayout::IndexOffset(int32_t sparse_rank, int32_t kv_head, PageId page) const {
  const int64_t slice = int64_t{sparse_rank} * shape_.kv_heads + kv_head;
  return index_ + (slice * pages_ + Index(page)) * IndexBytes(shape_);
}
int64_t PoolLayout::IndexScaleOffset(int32_t sparse_rank, int32_t kv_head, PageId page) const {
  const int64_t slice = int64_t{sparse_rank} * shape_.kv_heads + kv_head;
  return index_scale_ + (slice * pages_ + Index(page)) * ChannelBytes(shape_);
}
int64_t PoolLayout::IndexMinOffset(int32_t sparse_rank, int32_t kv_head, PageId page) const {
  const int64_t slice = int64_t{sparse_rank} * shape_.kv_heads + kv_head;
  return index_min_ + (slice * pages_ + Index(page)) * ChannelBytes(shape_);
}
int64_t PoolLayout::KmaxOffset(int32_t sparse_rank, int32_t kv_head, PageId page) const {
  const int64_t slice = int64_t{sparse_rank} * shape_.kv_heads + kv_head;
  return kmax_ + (slice * pages_ + Index(page)) * ChannelBytes(shape_);
}
int64_t PoolLayout::MeanRowOffset(int32_t sparse_rank, int32_t kv_head, PageId page) const {
  const int64_t slice = int64_t{sparse_rank} * shape_.kv_heads + kv_head;
  return mean_rows_ + (slice * pages_ + Index(page)) * ChannelBytes(shape_);
}

}  // namespace tailor
