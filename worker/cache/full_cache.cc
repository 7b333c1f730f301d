#include "worker/cache/full_cache.h"

#include <algorithm>

namespace tailor {

FullCache::FullCache(Backend* backend, int32_t layer, const PoolShape& shape)
    : backend_(backend),
      layer_(layer),
      kv_heads_(shape.kv_heads),
      head_dim_(shape.head_dim),
      rows_(backend, shape.kv_heads, shape.head_dim) {}

absl::Status FullCache::Extend(const PagedRows& rows) {
  // Room for the reserved pages too: a decode step must not allocate.
  TS_RETURN_IF_ERROR(rows_.EnsureSlots(static_cast<int64_t>(rows.pages.size())));
  while (loaded_tokens_ < rows.tokens) {
    const int64_t page = loaded_tokens_ / kPageTokens;
    const int64_t end = std::min((page + 1) * kPageTokens, rows.tokens);
    rows_.Load(*rows.pool, layer_, rows.pages[page], loaded_tokens_, end);
    loaded_tokens_ = end;
  }
  return absl::OkStatus();
}

void FullCache::NewRows(int64_t position, std::span<BFloat16*> out) {
  for (int32_t head = 0; head < kv_heads_; ++head) out[head] = rows_.Row(head, position);
  loaded_tokens_ = position + 1;
}

void FullCache::Attend(const AttendCall& call, AttendScratch& scratch) {
  scratch.Clear(kv_heads_);
  for (int32_t head = 0; head < kv_heads_; ++head) {
    rows_.AppendSegments(head, 0, call.tokens, &scratch.segments[head]);
  }
  backend_->Attend({.q = call.q,
                    .segments = scratch.Segments(),
                    .head_dim = head_dim_,
                    .mask = Mask::kNone,
                    .out = call.out,
                    .lse = call.lse});
}

absl::Status FullCache::Seal(const PagedRows&, int64_t) { return absl::OkStatus(); }

}  // namespace tailor
