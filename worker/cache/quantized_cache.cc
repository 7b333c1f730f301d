#include "worker/cache/quantized_cache.h"

namespace tailor {

QuantizedCache::QuantizedCache(Backend* backend, int32_t layer, const PoolShape& shape,
                               int32_t bits, int64_t window_slots)
    : backend_(backend),
      layer_(layer),
      kv_heads_(shape.kv_heads),
      shape_{.bits = bits, .head_dim = shape.head_dim},
      window_slots_(window_slots),
      residual_(backend, shape.kv_heads, shape.head_dim) {}

absl::Status QuantizedCache::AppendPage(const PagedRows& rows, int64_t page) {
  TS_ASSIGN_OR_RETURN(DeviceBuffer codes, backend_->Allocate(kv_heads_ * shape_.PageBytes(),
                                                             MemoryKind::kCodes));
  for (int32_t head = 0; head < kv_heads_; ++head) {
    backend_->QuantizePage(rows.Rows(layer_, head, page), shape_,
                           codes.data() + head * shape_.PageBytes());
  }
  codes_.push_back(std::move(codes));
  return absl::OkStatus();
}

absl::Status QuantizedCache::Extend(const PagedRows& rows) {
  TS_RETURN_IF_ERROR(residual_.EnsureSlots(window_slots_));
  while (static_cast<int64_t>(codes_.size()) < rows.sealed_pages) {
    TS_RETURN_IF_ERROR(AppendPage(rows, static_cast<int64_t>(codes_.size())));
  }
  CopyList copies;
  residual_.AddCopies(rows, layer_, rows.sealed_pages * kPageTokens, &copies);
  if (!copies.pieces().empty()) backend_->Copy(copies.pieces());
  return absl::OkStatus();
}

void QuantizedCache::NewRows(int64_t position, std::span<BFloat16*> out) {
  for (int32_t head = 0; head < kv_heads_; ++head) out[head] = residual_.Row(head, position);
}

void QuantizedCache::Attend(const AttendCall& call, AttendScratch& scratch) {
  const int64_t first = static_cast<int64_t>(codes_.size()) * kPageTokens;
  scratch.Clear(kv_heads_);
  for (int32_t head = 0; head < kv_heads_; ++head) {
    residual_.AppendSegments(head, first, call.tokens, &scratch.segments[head]);
    for (const DeviceBuffer& codes : codes_) {
      scratch.pages[head].push_back(codes.data() + head * shape_.PageBytes());
    }
  }
  backend_->AttendQuantized({.q = call.q,
                             .shape = shape_,
                             .pages = scratch.Pages(),
                             .residual = scratch.Segments(),
                             .out = call.out});
}

absl::Status QuantizedCache::Seal(const PagedRows& rows, int64_t page) {
  TS_CHECK(page == static_cast<int64_t>(codes_.size()));
  return AppendPage(rows, page);
}

LayerBytes QuantizedCache::bytes() const {
  return {.codes = static_cast<int64_t>(codes_.size()) * kv_heads_ * shape_.PageBytes(),
          .resident = residual_.bytes()};
}

}  // namespace tailor
