#include "worker/model/step_buffers.h"

#include <algorithm>

#include "common/status.h"

namespace tailor {

absl::StatusOr<StepBuffers> StepBuffers::Make(const LlamaModel& model, int64_t rows,
                                              int64_t batch) {
  const LlamaHyperparameters& m = model.shape;
  const int64_t q_cols = int64_t{m.q_heads} * m.head_dim, kv_cols = int64_t{m.kv_heads} * m.head_dim;
  StepBuffers b;
  b.rows = rows;
  const int64_t room = std::max(rows, batch);
  const auto layout = [&](float* base) {
    float* next = base;
    const auto take = [&](int64_t r, int64_t c) {
      const MatrixView<float> view(next, r, c);
      next += (r * c + 15) / 16 * 16;  // keeps every matrix 64-byte aligned
      return view;
    };
    b.x = take(room, m.hidden);
    b.x_norm = take(room, m.hidden);
    b.q = take(room, q_cols);
    b.k = take(room, kv_cols);
    b.v = take(room, kv_cols);
    b.attn_out = take(room, q_cols);
    b.ffn = take(room, m.ffn_hidden);
    for (MatrixView<float>& q : b.q_next) q = take(batch, q_cols);
    b.logits = take(batch, m.vocab);
    return next - base;
  };
  const int64_t floats = layout(nullptr);
  TS_ASSIGN_OR_RETURN(b.memory_,
                      model.ops->Allocate(floats * static_cast<int64_t>(sizeof(float))));
  layout(b.memory_.As<float>());
  b.store_rows.resize(room * m.kv_heads);
  b.window_rows.resize(room * m.kv_heads);
  b.tokens.resize(batch);
  b.positions.resize(batch);
  return b;
}

}  // namespace tailor
