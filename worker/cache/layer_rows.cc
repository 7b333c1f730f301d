#include "worker/cache/layer_rows.h"

#include <algorithm>

#include "common/status.h"
#include "worker/cache/copy_list.h"

namespace tailor {

int64_t LayerRows::Bytes(const PoolShape& shape, int64_t tokens) {
  return shape.kv_heads * tokens * 2 * shape.head_dim * static_cast<int64_t>(sizeof(BFloat16));
}

absl::StatusOr<std::unique_ptr<LayerRows>> LayerRows::Make(Backend* backend,
                                                           const PagedRows& stored, int64_t tokens,
                                                           int64_t spare_bytes) {
  std::unique_ptr<LayerRows> rows(new LayerRows(backend, stored, tokens));
  const int64_t bytes = Bytes(stored.pool->shape(), tokens);
  TS_ASSIGN_OR_RETURN(DeviceBuffer first, backend->Allocate(bytes));
  rows->buffers_.push_back(std::move(first));
  if (stored.tokens > 0 && bytes <= spare_bytes) {
    auto second = backend->Allocate(bytes);
    if (second.ok()) rows->buffers_.push_back(*std::move(second));
  }
  if (rows->brings_past_ahead()) {
    backend->CopyAside(rows->Copies(Way::kFromStore, 0, 0, stored.tokens));
  }
  return rows;
}

LayerRows::~LayerRows() { backend_->AwaitAside(); }

void LayerRows::BeginLayer(int32_t layer) {
  TS_CHECK(layer == layer_ + 1);
  layer_ = layer;
  // The past is here, and what the buffers held of earlier layers is in the store.
  backend_->AwaitAside();
  if (!brings_past_ahead()) {
    if (stored_.tokens > 0) backend_->Copy(Copies(Way::kFromStore, layer, 0, stored_.tokens));
  } else if (layer + 1 < stored_.pool->shape().layers) {
    backend_->CopyAside(Copies(Way::kFromStore, layer + 1, 0, stored_.tokens));
  }
}

BFloat16* LayerRows::RowOf(int32_t layer, int32_t kv_head, int64_t position) const {
  const int64_t row = kv_head * tokens_ + position;
  return BufferOf(layer).As<BFloat16>() + row * 2 * stored_.pool->shape().head_dim;
}

BFloat16* LayerRows::Row(int32_t kv_head, int64_t position) const {
  return RowOf(layer_, kv_head, position);
}

void LayerRows::Send(int64_t first, int64_t last) const {
  backend_->CopyAside(Copies(Way::kToStore, layer_, first, last));
}

std::vector<CopyPiece> LayerRows::Copies(Way way, int32_t layer, int64_t first,
                                         int64_t last) const {
  const PoolShape& shape = stored_.pool->shape();
  const int64_t row_elements = int64_t{2} * shape.head_dim;
  CopyList copies;
  for (int32_t head = 0; head < shape.kv_heads; ++head) {
    for (int64_t begin = first; begin < last;) {
      const int64_t page = begin / kPageTokens;
      const int64_t end = std::min((page + 1) * kPageTokens, last);
      BFloat16* store = stored_.pool->Rows(layer, head, stored_.pages[page]) +
                        (begin - page * kPageTokens) * row_elements;
      BFloat16* here = RowOf(layer, head, begin);
      const int64_t bytes = (end - begin) * row_elements * static_cast<int64_t>(sizeof(BFloat16));
      if (way == Way::kToStore) {
        copies.Add(here, store, bytes);
      } else {
        copies.Add(store, here, bytes);
      }
      begin = end;
    }
  }
  return copies.Take();
}

}  // namespace tailor
