#include "worker/model/step_buffers.h"

#include <algorithm>

#include "common/status.h"

namespace tailor {

int64_t StepBuffers::Layout(const LlamaHyperparameters& m, int64_t batch, float* base) {
  const int64_t q_cols = int64_t{m.q_heads} * m.head_dim,
                kv_cols = int64_t{m.kv_heads} * m.head_dim;
  const int64_t room = std::max(rows, batch);
  float* next = base;
  const auto take = [&](int64_t r, int64_t c) {
    const MatrixView<float> view(next, r, c);
    next += (r * c + 15) / 16 * 16;  // keeps every matrix 64-byte aligned
    return view;
  };
  x = take(room, m.hidden);
  x_norm = take(room, m.hidden);
  q = take(room, q_cols);
  k = take(room, kv_cols);
  v = take(room, kv_cols);
  attn_out = take(room, q_cols);
  ffn = take(room, m.ffn_hidden);
  for (MatrixView<float>& matrix : q_next) matrix = take(batch, q_cols);
  logits = take(batch, m.vocab);
  return next - base;
}

int64_t StepBuffers::Bytes(const LlamaHyperparameters& model, int64_t rows, int64_t batch) {
  StepBuffers b;
  b.rows = rows;
  return b.Layout(model, batch, nullptr) * static_cast<int64_t>(sizeof(float));
}

absl::StatusOr<StepBuffers> StepBuffers::Make(const LlamaModel& model, int64_t rows,
                                              int64_t batch) {
  StepBuffers b;
  b.rows = rows;
  TS_ASSIGN_OR_RETURN(b.memory_, model.ops->Allocate(Bytes(model.shape, rows, batch)));
  b.Layout(model.shape, batch, b.memory_.As<float>());
  const int64_t room = std::max(rows, batch);
  b.store_rows.resize(room * model.shape.kv_heads);
  b.window_rows.resize(room * model.shape.kv_heads);
  b.tokens.resize(batch);
  b.positions.resize(batch);
  return b;
}

}  // namespace tailor
