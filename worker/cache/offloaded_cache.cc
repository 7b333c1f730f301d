#include "worker/cache/offloaded_cache.h"

#include <algorithm>
#include <cmath>

namespace tailor {

OffloadedCache::OffloadedCache(Backend* backend, int32_t layer, const PoolShape& shape,
                               int32_t sink_tokens, int64_t window_slots,
                               std::optional<float> tail_gain)
    : backend_(backend),
      layer_(layer),
      kv_heads_(shape.kv_heads),
      head_dim_(shape.head_dim),
      sink_tokens_(sink_tokens),
      tail_gain_(tail_gain),
      window_slots_(window_slots),
      window_(backend, shape.kv_heads, shape.head_dim),
      means_(backend, layer, shape.kv_heads, shape.head_dim) {}

absl::Status OffloadedCache::AddSink(const PagedRows& rows, CopyList* copies) {
  const int64_t head_elements = int64_t{sink_tokens_} * 2 * head_dim_;
  TS_ASSIGN_OR_RETURN(
      sink_, backend_->Allocate(kv_heads_ * head_elements * static_cast<int64_t>(sizeof(BFloat16)),
                                MemoryKind::kResident));
  for (int32_t head = 0; head < kv_heads_; ++head) {
    copies->Add(rows.Rows(layer_, head, 0), SinkRows(head),
                head_elements * static_cast<int64_t>(sizeof(BFloat16)));
  }
  return absl::OkStatus();
}

absl::Status OffloadedCache::LoadSealed(const PagedRows& rows) {
  if (!tail_gain_.has_value()) return absl::OkStatus();
  return means_.Extend(*rows.pool, rows.pages.first(rows.sealed_pages));
}

absl::Status OffloadedCache::Extend(const PagedRows& rows) {
  TS_RETURN_IF_ERROR(window_.EnsureSlots(window_slots_));
  CopyList copies;
  if (sink_tokens_ > 0 && sealed_pages_ == 0 && rows.sealed_pages > 0) {
    TS_RETURN_IF_ERROR(AddSink(rows, &copies));
  }
  sealed_pages_ = rows.sealed_pages;
  window_.AddCopies(rows, layer_, sealed_pages_ * kPageTokens, &copies);
  if (!copies.pieces().empty()) backend_->Copy(copies.pieces());
  return absl::OkStatus();
}

void OffloadedCache::NewRows(int64_t position, std::span<BFloat16*> out) {
  for (int32_t head = 0; head < kv_heads_; ++head) out[head] = window_.Row(head, position);
}

void OffloadedCache::Attend(const AttendCall& call, AttendScratch& scratch) {
  TS_DCHECK(!tail_gain_.has_value() || means_.pages() == sealed_pages_);
  scratch.Clear(kv_heads_);
  const int64_t skipped = call.with_tail && means_.pages() > 0
                              ? means_.pages() * kPageTokens - sink_tokens_ - call.fetched.count
                              : 0;
  // Each mean row stands for as many of the skipped tokens.
  const float log_weight =
      skipped > 0
          ? *tail_gain_ + std::log(static_cast<float>(skipped) / static_cast<float>(means_.pages()))
          : 0.0f;
  const int64_t row_elements = int64_t{2} * head_dim_;
  // The store's threads, or this process's, put the fetched rows into memory of the host.
  const auto* fetched =
      reinterpret_cast<const BFloat16*>(backend_->Stage(std::as_bytes(call.fetched.rows)));
  for (int32_t head = 0; head < kv_heads_; ++head) {
    std::vector<RowSegment>& segments = scratch.segments[head];
    if (sealed_pages_ > 0 && sink_tokens_ > 0) segments.push_back({SinkRows(head), sink_tokens_});
    if (call.fetched.count > 0) {
      segments.push_back(
          {fetched + int64_t{head} * call.fetched.count * row_elements, call.fetched.count});
    }
    window_.AppendSegments(head, sealed_pages_ * kPageTokens, call.tokens, &segments);
    if (skipped > 0) means_.AppendSegments(head, &scratch.means[head]);
  }
  backend_->Attend({.q = call.q,
                    .segments = scratch.Segments(),
                    .head_dim = head_dim_,
                    .mask = Mask::kNone,
                    .out = call.out,
                    .lse = call.lse,
                    .means = scratch.Means(),
                    .mean_log_weight = log_weight});
}

absl::Status OffloadedCache::Seal(const PagedRows& rows, int64_t page) {
  TS_CHECK(page == sealed_pages_);
  if (sink_tokens_ > 0 && page == 0) {
    CopyList copies;
    TS_RETURN_IF_ERROR(AddSink(rows, &copies));
    backend_->Copy(copies.pieces());
  }
  sealed_pages_ = page + 1;
  return LoadSealed(rows);
}

LayerBytes OffloadedCache::bytes() const {
  return {.codes = 0, .resident = sink_.bytes() + window_.bytes() + means_.bytes()};
}

}  // namespace tailor
