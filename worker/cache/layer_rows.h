// One layer's full-precision rows of a sequence while it is prefilled, in device memory: there the
// chunks write and read them where the host's memory is far. New rows go to the store's pages, and
// the next layer's past comes from them, by copies beside the ops.
// docs/decisions/0009-prefill-on-the-device.md.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "worker/cache/layer_cache.h"

namespace tailor {

class LayerRows {
 public:
  // Of one buffer: a layer's rows of `tokens` tokens.
  static int64_t Bytes(const PoolShape& shape, int64_t tokens);
  // Room for `tokens` tokens in all. stored: the sequence's pages, which hold the rows of its first
  // stored.tokens, the past; the pages stay where they are while this lives. A second buffer brings
  // the next layer's past while a layer runs; it is taken if spare_bytes and the backend have it,
  // else each layer waits for its past. Errors: ResourceExhausted.
  static absl::StatusOr<std::unique_ptr<LayerRows>> Make(Backend* backend, const PagedRows& stored,
                                                         int64_t tokens, int64_t spare_bytes);
  // The copies end before their memory is given to others.
  ~LayerRows();

  // Later ops find the layer's past here, and may write its new rows. Layers come in order.
  void BeginLayer(int32_t layer);
  // The row [2][head_dim] of the token at `position`, in the layer begun last; those of a head are
  // neighbours.
  BFloat16* Row(int32_t kv_head, int64_t position) const;
  // The rows of tokens [first, last) are written by ops enqueued: they go to their pages, until the
  // next BeginLayer's ops or Synchronize.
  void Send(int64_t first, int64_t last) const;
  bool brings_past_ahead() const { return buffers_.size() == 2; }

 private:
  LayerRows(Backend* backend, const PagedRows& stored, int64_t tokens)
      : backend_(backend), stored_(stored), tokens_(tokens) {}
  const DeviceBuffer& BufferOf(int32_t layer) const { return buffers_[layer % buffers_.size()]; }
  BFloat16* RowOf(int32_t layer, int32_t kv_head, int64_t position) const;
  enum class Way { kFromStore, kToStore };
  std::vector<CopyPiece> Copies(Way way, int32_t layer, int64_t first, int64_t last) const;

  Backend* const backend_;
  const PagedRows stored_;
  const int64_t tokens_;
  int32_t layer_ = -1;
  std::vector<DeviceBuffer> buffers_;  // [kv_heads][tokens][2][head_dim] each
};

}  // namespace tailor
