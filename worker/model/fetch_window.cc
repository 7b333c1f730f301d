#include "worker/model/fetch_window.h"

#include "common/status.h"

namespace tailor {

void FetchWindow::Want(int32_t row, int32_t layer, std::span<const float> q) {
  TS_CHECK(end_ - attended_ < kRoom);
  At(end_++) = {.row = row, .layer = layer, .q = q, .posted = false};
}

void FetchWindow::PostAhead() {
  // An answer's memory goes to the post kMaxPendingSelects later: the attention that reads it, of
  // which attended_ counts those behind us, has to be before that post.
  for (; posted_ < end_ && posted_ - attended_ < kMaxPendingSelects; ++posted_) {
    Wanted& wanted = At(posted_);
    DecodeRow& row = rows_[wanted.row];
    if (!row.status.ok()) continue;
    backend_->BeginLane(wanted.row);
    row.status = row.cache->PostFetch(wanted.layer, wanted.q);
    wanted.posted = row.status.ok();
  }
}

void FetchWindow::Attend(int32_t row, int32_t layer, MatrixView<const float> q,
                         MatrixView<float> out) {
  DecodeRow& r = rows_[row];
  const bool is_next =
      attended_ < posted_ && At(attended_).row == row && At(attended_).layer == layer;
  backend_->BeginLane(row);
  if (r.status.ok()) {
    r.status = r.cache->Attend(layer, q, out);
  } else if (is_next && At(attended_).posted) {
    r.cache->DiscardFetch(layer);
  }
  if (is_next) ++attended_;
}

}  // namespace tailor
