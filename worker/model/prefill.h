// Layer-major prefill: all new tokens pass layer l, in chunks, before layer l + 1 starts, so the
// worker holds full-precision KV of no layer: rows go straight to the store's pages, where later
// chunks read them. Where ops read the host's memory slowly, it holds those of one layer
// (LayerRows). Exact attention over the whole past. ALGORITHM §3.6.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "worker/cache/layer_rows.h"
#include "worker/cache/sequence_cache.h"
#include "worker/model/llama_weights.h"
#include "worker/model/step_buffers.h"

namespace tailor {

// A prefill in progress; the engine runs decode steps of other sequences between its units.
class Prefill {
 public:
  // `tokens` follow what the cache holds; rows for them are reserved. b.rows is the chunk size.
  // Abandoning a prefill before done() leaves `cache` unusable: detach and attach the sequence
  // anew. spare_bytes: device memory beyond Bytes that nobody else will ask for; with a past, more
  // speed. Errors: ResourceExhausted for Bytes.
  static absl::StatusOr<std::unique_ptr<Prefill>> Start(
      const LlamaModel& model, std::vector<TokenId> tokens, SequenceCache& cache,
      int64_t spare_bytes = std::numeric_limits<int64_t>::max());
  // Device memory beside the cache, until the tokens are committed: the residual stream of those
  // after `past`, and, where the host's memory is far, one layer's rows of all `tokens`.
  static int64_t Bytes(const PoolShape& shape, int64_t hidden, int64_t past, int64_t tokens,
                       bool host_memory_is_far);

  // Runs one (layer, chunk) unit. The last one commits the tokens and leaves the logits of the next
  // token in the first row of b.logits.
  absl::Status RunUnit(StepBuffers& b);
  bool done() const { return layer_ == model_.shape.layers; }
  // Progress in token-layers.
  int64_t done_work() const;
  int64_t total_work() const;

 private:
  Prefill(const LlamaModel& model, std::vector<TokenId> tokens, SequenceCache& cache,
          DeviceBuffer residual);
  BFloat16* Row(int32_t kv_head, int64_t position) const;
  std::span<const std::span<const RowSegment>> Segments(int64_t tokens);
  void WriteRows(int64_t first, MatrixView<const float> k, MatrixView<const float> v,
                 StepBuffers& b);
  void RunLayer(const LlamaLayer& w, int64_t first, int64_t count, StepBuffers& b);
  void RunLastLayer(const LlamaLayer& w, int64_t first, int64_t count, StepBuffers& b);
  absl::Status Finish(StepBuffers& b);
  int64_t new_tokens() const { return static_cast<int64_t>(tokens_.size()); }

  const LlamaModel& model_;
  const std::vector<TokenId> tokens_;
  SequenceCache& cache_;
  const int64_t past_;       // tokens in the cache before this prefill
  DeviceBuffer residual_;    // [new tokens][hidden] fp32
  std::unique_ptr<LayerRows> layer_rows_;  // null: rows stay in the pages
  std::vector<RowSegment> row_segments_;   // [kv_heads], of layer_rows_
  std::vector<std::span<const RowSegment>> head_segments_;
  MatrixView<float> x_;
  std::vector<int32_t> positions_;
  int32_t layer_ = 0;
  int64_t next_token_ = 0;   // of the current layer, counted from the first new one
};

}  // namespace tailor
