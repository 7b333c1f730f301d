#include "worker/cache/layer_cache.h"

#include "worker/cache/layer_rows.h"

namespace tailor {

const BFloat16* PagedRows::Rows(int32_t layer, int32_t kv_head, int64_t page) const {
  if (on_device != nullptr) return on_device->Row(kv_head, page * kPageTokens);
  return pool->Rows(layer, kv_head, pages[page]);
}

void AttendScratch::Clear(int32_t kv_heads) {
  segments.resize(kv_heads);
  means.resize(kv_heads);
  pages.resize(kv_heads);
  for (auto& list : segments) list.clear();
  for (auto& list : means) list.clear();
  for (auto& list : pages) list.clear();
}

std::span<const std::span<const RowSegment>> AttendScratch::Segments() {
  segment_spans.assign(segments.begin(), segments.end());
  return segment_spans;
}

std::span<const std::span<const RowSegment>> AttendScratch::Means() {
  mean_spans.assign(means.begin(), means.end());
  return mean_spans;
}

std::span<const std::span<const std::byte* const>> AttendScratch::Pages() {
  page_spans.assign(pages.begin(), pages.end());
  return page_spans;
}

}  // namespace tailor
