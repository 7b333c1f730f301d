#include "worker/cache/resident_window.h"

#include <algorithm>

namespace tailor {

absl::Status ResidentWindow::EnsureSlots(int64_t slots) {
  while (this->slots() < slots) {
    TS_ASSIGN_OR_RETURN(DeviceBuffer buffer, backend_->Allocate(PageBytes(kv_heads_, head_dim_),
                                                                MemoryKind::kResident));
    buffers_.push_back(std::move(buffer));
  }
  return absl::OkStatus();
}

BFloat16* ResidentWindow::Row(int32_t kv_head, int64_t position) const {
  const int64_t slot = (position / kPageTokens) % slots();
  const int64_t row = int64_t{kv_head} * kPageTokens + position % kPageTokens;
  return buffers_[slot].As<BFloat16>() + row * 2 * head_dim_;
}

void ResidentWindow::AddCopies(const PagedRows& rows, int32_t layer, int64_t first,
                               CopyList* copies) const {
  const int64_t row_elements = int64_t{2} * head_dim_;
  for (int32_t head = 0; head < kv_heads_; ++head) {
    for (int64_t begin = first; begin < rows.tokens;) {
      const int64_t page = begin / kPageTokens;
      const int64_t end = std::min((page + 1) * kPageTokens, rows.tokens);
      copies->Add(rows.Rows(layer, head, page) + begin % kPageTokens * row_elements,
                  Row(head, begin),
                  (end - begin) * row_elements * static_cast<int64_t>(sizeof(BFloat16)));
      begin = end;
    }
  }
}

void ResidentWindow::AppendSegments(int32_t kv_head, int64_t first, int64_t last,
                                    std::vector<RowSegment>* out) const {
  while (first < last) {
    const int64_t page_end = (first / kPageTokens + 1) * kPageTokens;
    const int64_t end = std::min(page_end, last);
    out->push_back({Row(kv_head, first), static_cast<int32_t>(end - first)});
    first = end;
  }
}

}  // namespace tailor
