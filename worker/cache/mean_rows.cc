#include "worker/cache/mean_rows.h"

#include <algorithm>

#include "worker/cache/copy_list.h"

namespace tailor {

int64_t MeanRows::Bytes(int32_t kv_heads, int32_t head_dim, int64_t pages) {
  const int64_t blocks = (pages + kBlockPages - 1) / kBlockPages;
  return blocks * kBlockPages * kv_heads * 2 * head_dim * static_cast<int64_t>(sizeof(BFloat16));
}

BFloat16* MeanRows::Row(int32_t kv_head, int64_t page) const {
  const int64_t row = int64_t{kv_head} * kBlockPages + page % kBlockPages;
  return blocks_[page / kBlockPages].As<BFloat16>() + row * 2 * head_dim_;
}

absl::Status MeanRows::Extend(const PoolView& pool, std::span<const PageId> pages) {
  const auto end = static_cast<int64_t>(pages.size());
  while (static_cast<int64_t>(blocks_.size()) * kBlockPages < end) {
    TS_ASSIGN_OR_RETURN(
        DeviceBuffer block,
        backend_->Allocate(Bytes(kv_heads_, head_dim_, kBlockPages), MemoryKind::kResident));
    blocks_.push_back(std::move(block));
  }
  const int32_t rank = pool.layout().SparseRank(layer_);
  CopyList copies;
  while (pages_ < end) {
    // Neighbours in the pool are neighbours here: one piece for each run of a block.
    const int64_t block_end = std::min(end, (pages_ / kBlockPages + 1) * kBlockPages);
    int64_t run = pages_ + 1;
    while (run < block_end && Index(pages[run]) == Index(pages[run - 1]) + 1) ++run;
    for (int32_t head = 0; head < kv_heads_; ++head) {
      copies.Add(pool.MeanRow(rank, head, pages[pages_]), Row(head, pages_),
                 (run - pages_) * 2 * head_dim_ * static_cast<int64_t>(sizeof(BFloat16)));
    }
    pages_ = run;
  }
  if (!copies.pieces().empty()) backend_->Copy(copies.pieces());
  return absl::OkStatus();
}

void MeanRows::AppendSegments(int32_t kv_head, std::vector<RowSegment>* out) const {
  for (int64_t first = 0; first < pages_; first += kBlockPages) {
    out->push_back(
        {Row(kv_head, first), static_cast<int32_t>(std::min(kBlockPages, pages_ - first))});
  }
}

}  // namespace tailor
