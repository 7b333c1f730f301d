#include "worker/model/step_buffers.h"

#include "common/status.h"

namespace tailor {

absl::StatusOr<StepBuffers> StepBuffers::Make(const LlamaModel& model, int64_t rows) {
  const LlamaHyperparameters& m = model.shape;
  const int64_t q_cols = int64_t{m.q_heads} * m.head_dim, kv_cols = int64_t{m.kv_heads} * m.head_dim;
  StepBuffers b;
  b.rows = rows;
  const auto layout = [&](float* base) {
    float* next = base;
    const auto take = [&](int64_t r, int64_t c) {
      const MatrixView<float> view(next, r, c);
      next += (r * c + 15) / 16 * 16;  // keeps every matrix 64-byte aligned
      return view;
    };
    b.x = take(rows, m.hidden);
    b.x_norm = take(rows, m.hidden);
    b.q = take(rows, q_cols);
    b.k = take(rows, kv_cols);
    b.v = take(rows, kv_cols);
    b.attn_out = take(rows, q_cols);
    b.ffn = take(rows, m.ffn_hidden);
    b.q_next = take(1, q_cols);
    b.logits = take(1, m.vocab);
    return next - base;
  };
  const int64_t floats = layout(nullptr);
  TS_ASSIGN_OR_RETURN(b.memory_,
                      model.ops->Allocate(floats * static_cast<int64_t>(sizeof(float))));
  layout(b.memory_.As<float>());
  b.store_rows.resize(rows * m.kv_heads);
  b.window_rows.resize(rows * m.kv_heads);
  return b;
}

}  // namespace tailor
