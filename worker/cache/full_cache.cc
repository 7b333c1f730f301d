#include "worker/cache/full_cache.h"

#include <algorithm>

#include "worker/cache/copy_list.h"
#include "worker/cache/resident_window.h"

namespace tailor {

FullCache::FullCache(Backend* backend, int32_t layer, const PoolShape& shape)
    : backend_(backend), layer_(layer), kv_heads_(shape.kv_heads), head_dim_(shape.head_dim) {}

int64_t FullCache::held_pages() const {
  return blocks_.empty() ? 0 : blocks_.back().first_page + blocks_.back().pages;
}

// In one block, or, where memory has no such hole, in smaller ones: what fits by its bytes fits.
absl::Status FullCache::EnsurePages(int64_t pages) {
  const int64_t page_bytes = ResidentWindow::PageBytes(kv_heads_, head_dim_);
  int64_t most = pages - held_pages();
  while (held_pages() < pages) {
    const int64_t count = std::min(most, pages - held_pages());
    auto rows = backend_->Allocate(count * page_bytes, MemoryKind::kResident);
    if (rows.ok()) {
      blocks_.push_back({held_pages(), count, *std::move(rows)});
    } else if (count == 1) {
      return rows.status();
    } else {
      most = count / 2;
    }
  }
  return absl::OkStatus();
}

const FullCache::Block& FullCache::BlockOf(int64_t position) const {
  return *std::partition_point(blocks_.begin(), blocks_.end(),
                               [&](const Block& block) { return block.end() <= position; });
}

BFloat16* FullCache::Row(const Block& block, int32_t kv_head, int64_t position) const {
  const int64_t row = kv_head * block.pages * kPageTokens + position - block.first();
  return block.rows.As<BFloat16>() + row * 2 * head_dim_;
}

absl::Status FullCache::Extend(const PagedRows& rows) {
  // Room for the reserved pages too: a decode step must not allocate.
  TS_RETURN_IF_ERROR(EnsurePages(static_cast<int64_t>(rows.pages.size())));
  if (loaded_tokens_ >= rows.tokens) return absl::OkStatus();
  const int64_t row_elements = int64_t{2} * head_dim_;
  CopyList copies;
  for (int32_t head = 0; head < kv_heads_; ++head) {
    for (int64_t first = loaded_tokens_; first < rows.tokens;) {
      const int64_t page = first / kPageTokens;
      const int64_t end = std::min((page + 1) * kPageTokens, rows.tokens);
      copies.Add(rows.Rows(layer_, head, page) + first % kPageTokens * row_elements,
                 Row(BlockOf(first), head, first),
                 (end - first) * row_elements * static_cast<int64_t>(sizeof(BFloat16)));
      first = end;
    }
  }
  backend_->Copy(copies.pieces());
  loaded_tokens_ = rows.tokens;
  return absl::OkStatus();
}

void FullCache::NewRows(int64_t position, std::span<BFloat16*> out) {
  const Block& block = BlockOf(position);
  for (int32_t head = 0; head < kv_heads_; ++head) out[head] = Row(block, head, position);
  loaded_tokens_ = position + 1;
}

void FullCache::Attend(const AttendCall& call, AttendScratch& scratch) {
  scratch.Clear(kv_heads_);
  for (const Block& block : blocks_) {
    const int64_t end = std::min(block.end(), call.tokens);
    if (block.first() >= end) break;
    for (int32_t head = 0; head < kv_heads_; ++head) {
      scratch.segments[head].push_back(
          {Row(block, head, block.first()), static_cast<int32_t>(end - block.first())});
    }
  }
  backend_->Attend({.q = call.q,
                    .segments = scratch.Segments(),
                    .head_dim = head_dim_,
                    .mask = Mask::kNone,
                    .out = call.out,
                    .lse = call.lse});
}

absl::Status FullCache::Seal(const PagedRows&, int64_t) { return absl::OkStatus(); }

LayerBytes FullCache::bytes() const {
  return {.codes = 0, .resident = held_pages() * ResidentWindow::PageBytes(kv_heads_, head_dim_)};
}

}  // namespace tailor
