#include "worker/model/prefill.h"

#include <algorithm>
#include <numeric>

#include "common/status.h"
#include "worker/model/project.h"

namespace tailor {
namespace {

int64_t ResidualBytes(int64_t hidden, int64_t tokens) {
  return tokens * hidden * static_cast<int64_t>(sizeof(float));
}

}  // namespace

int64_t Prefill::Bytes(const PoolShape& shape, int64_t hidden, int64_t past, int64_t tokens,
                       bool host_memory_is_far) {
  const int64_t rows = host_memory_is_far ? LayerRows::Bytes(shape, tokens) : 0;
  return ResidualBytes(hidden, tokens - past) + rows;
}

Prefill::Prefill(const LlamaModel& model, std::vector<TokenId> tokens, SequenceCache& cache,
                 DeviceBuffer residual)
    : model_(model),
      tokens_(std::move(tokens)),
      cache_(cache),
      past_(cache.tokens()),
      residual_(std::move(residual)),
      positions_(tokens_.size()) {
  x_ = residual_.Matrix<float>(new_tokens(), model_.shape.hidden);
  std::iota(positions_.begin(), positions_.end(), static_cast<int32_t>(past_));
}

absl::StatusOr<std::unique_ptr<Prefill>> Prefill::Start(const LlamaModel& model,
                                                        std::vector<TokenId> tokens,
                                                        SequenceCache& cache, int64_t spare_bytes) {
  TS_CHECK(!tokens.empty());
  const auto count = static_cast<int64_t>(tokens.size());
  TS_ASSIGN_OR_RETURN(DeviceBuffer residual,
                      model.ops->Allocate(ResidualBytes(model.shape.hidden, count)));
  std::unique_ptr<Prefill> prefill(
      new Prefill(model, std::move(tokens), cache, std::move(residual)));
  if (model.ops->host_memory_is_far()) {
    TS_ASSIGN_OR_RETURN(prefill->layer_rows_, LayerRows::Make(model.ops, cache.stored_rows(),
                                                              prefill->past_ + count, spare_bytes));
  }
  model.ops->Embed(prefill->tokens_, model.weights.embedding, prefill->x_);
  return prefill;
}

int64_t Prefill::done_work() const { return layer_ * new_tokens() + next_token_; }
int64_t Prefill::total_work() const { return model_.shape.layers * new_tokens(); }

BFloat16* Prefill::Row(int32_t kv_head, int64_t position) const {
  return layer_rows_ != nullptr ? layer_rows_->Row(kv_head, position)
                                : cache_.StoreRow(layer_, kv_head, position);
}

std::span<const std::span<const RowSegment>> Prefill::Segments(int64_t tokens) {
  if (layer_rows_ == nullptr) return cache_.StoreSegments(layer_, tokens);
  row_segments_.clear();
  head_segments_.clear();
  for (int32_t head = 0; head < model_.shape.kv_heads; ++head) {
    row_segments_.push_back({layer_rows_->Row(head, 0), static_cast<int32_t>(tokens)});
  }
  for (const RowSegment& segment : row_segments_) head_segments_.emplace_back(&segment, 1);
  return head_segments_;
}

void Prefill::WriteRows(int64_t first, MatrixView<const float> k, MatrixView<const float> v,
                        StepBuffers& b) {
  const int32_t kv_heads = model_.shape.kv_heads;
  for (int64_t i = 0; i < k.rows; ++i) {
    for (int32_t head = 0; head < kv_heads; ++head) {
      b.store_rows[i * kv_heads + head] = Row(head, past_ + first + i);
    }
  }
  model_.ops->WriteRows(k, v, std::span(b.store_rows.data(), k.rows * kv_heads),
                        model_.shape.head_dim);
  if (layer_rows_ != nullptr) layer_rows_->Send(past_ + first, past_ + first + k.rows);
}

void Prefill::RunLayer(const LlamaLayer& w, int64_t first, int64_t count, StepBuffers& b) {
  Backend& ops = *model_.ops;
  const auto x = x_.Rows(first, count), x_norm = b.x_norm.Rows(0, count),
             q = b.q.Rows(0, count), k = b.k.Rows(0, count), v = b.v.Rows(0, count),
             attn_out = b.attn_out.Rows(0, count), ffn = b.ffn.Rows(0, count);
  const std::span<const int32_t> positions(positions_.data() + first, count);
  ops.RmsNorm(x, w.attn_norm, model_.shape.rms_eps, x_norm);
  ProjectQkv(model_, w, positions, x_norm, q, k, v);
  WriteRows(first, k, v, b);
  ops.Attend({.q = q,
              .segments = Segments(past_ + first + count),
              .head_dim = model_.shape.head_dim,
              .mask = Mask::kCausal,
              .out = attn_out,
              .lse = {}});
  ops.MatMulAdd(attn_out, w.wo, x);  // residual
  ops.RmsNorm(x, w.ffn_norm, model_.shape.rms_eps, x_norm);
  ops.SwiGlu(x_norm, w.gate, w.up, ffn);
  ops.MatMulAdd(ffn, w.down, x);  // residual
}

// Only the newest token's output is read after the last layer: the others just leave their rows.
void Prefill::RunLastLayer(const LlamaLayer& w, int64_t first, int64_t count, StepBuffers& b) {
  if (first + count == new_tokens()) {
    if (count > 1) RunLastLayer(w, first, count - 1, b);
    RunLayer(w, first + count - 1, 1, b);
    return;
  }
  const std::span<const int32_t> positions(positions_.data() + first, count);
  const auto x_norm = b.x_norm.Rows(0, count), k = b.k.Rows(0, count), v = b.v.Rows(0, count);
  model_.ops->RmsNorm(x_.Rows(first, count), w.attn_norm, model_.shape.rms_eps, x_norm);
  ProjectKv(model_, w, positions, x_norm, k, v);
  WriteRows(first, k, v, b);
}

absl::Status Prefill::RunUnit(StepBuffers& b) {
  TS_CHECK(!done());
  const LlamaLayer& w = model_.weights.layers[layer_];
  const int64_t count = std::min(b.rows, new_tokens() - next_token_);
  if (layer_rows_ != nullptr && next_token_ == 0) layer_rows_->BeginLayer(layer_);
  if (layer_ + 1 == model_.shape.layers) {
    RunLastLayer(w, next_token_, count, b);
  } else {
    RunLayer(w, next_token_, count, b);
  }
  next_token_ += count;
  if (next_token_ < new_tokens()) return absl::OkStatus();
  TS_RETURN_IF_ERROR(cache_.ExtendLayer(layer_, past_ + new_tokens(), layer_rows_.get()));
  ++layer_;
  next_token_ = 0;
  return done() ? Finish(b) : absl::OkStatus();
}

absl::Status Prefill::Finish(StepBuffers& b) {
  Backend& ops = *model_.ops;
  const auto x_norm = b.x_norm.Rows(0, 1);
  ops.RmsNorm(x_.Rows(new_tokens() - 1, 1), model_.weights.final_norm, model_.shape.rms_eps, x_norm);
  ops.MatMul(x_norm, model_.weights.lm_head, b.logits.Rows(0, 1));
  // What the commit makes of sealed pages takes their place.
  layer_rows_.reset();
  residual_ = DeviceBuffer();
  return cache_.CommitPrefill(tokens_);
}

}  // namespace tailor
