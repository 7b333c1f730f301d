#include "worker/model/decode_step.h"

#include "common/status.h"
#include "worker/model/project.h"

namespace tailor {
namespace {

// q of layer `layer + 1` guessed from layer `layer`'s input: RoPE(Wq norm(x) + bq). ALGORITHM §3.2.
absl::Status PostPredicted(const LlamaModel& model, const LayerPolicy& policy, int32_t layer,
                           int32_t position, SequenceCache& cache, StepBuffers& b) {
  const int32_t next = layer + 1;
  if (next == model.shape.layers || !cache.Fetches(next)) return absl::OkStatus();
  const int32_t norm = policy.predict_norm == PredictNorm::kNext ? next : layer;
  const std::vector<LlamaLayer>& layers = model.weights.layers;
  model.ops->RmsNorm(b.x.Rows(0, 1), layers[norm].attn_norm, model.shape.rms_eps,
                     b.x_norm.Rows(0, 1));
  ProjectQ(model, layers[next], std::span(&position, 1), b.x_norm.Rows(0, 1), b.q_next);
  return cache.PostFetch(next, b.q_next.row(0));
}

}  // namespace

absl::Status DecodeStep(const LlamaModel& model, const LayerPolicy& policy, TokenId token,
                        SequenceCache& cache, StepBuffers& b) {
  Backend& ops = *model.ops;
  const LlamaHyperparameters& m = model.shape;
  const int32_t position = static_cast<int32_t>(cache.tokens());
  const auto x = b.x.Rows(0, 1), x_norm = b.x_norm.Rows(0, 1), q = b.q.Rows(0, 1),
             k = b.k.Rows(0, 1), v = b.v.Rows(0, 1), attn_out = b.attn_out.Rows(0, 1),
             ffn = b.ffn.Rows(0, 1);
  const std::span store_rows(b.store_rows.data(), m.kv_heads);
  const std::span window_rows(b.window_rows.data(), m.kv_heads);

  ops.Embed(std::span(&token, 1), model.weights.embedding, x);
  for (int32_t layer = 0; layer < m.layers; ++layer) {
    const LlamaLayer& w = model.weights.layers[layer];
    const bool predicted = policy.query == QueryMode::kPredicted;
    if (predicted && layer > 0) {
      TS_RETURN_IF_ERROR(PostPredicted(model, policy, layer, position, cache, b));
    }
    ops.RmsNorm(x, w.attn_norm, m.rms_eps, x_norm);
    ProjectQkv(model, w, std::span(&position, 1), x_norm, q, k, v);
    // Layer 0 has no layer before it: its own query is there in time.
    if (cache.Fetches(layer) && (!predicted || layer == 0)) {
      TS_RETURN_IF_ERROR(cache.PostFetch(layer, q.row(0)));
    }
    // Rows are taken in the order of the posts: a sparse layer 0 posts before it predicts layer 1.
    if (predicted && layer == 0) {
      TS_RETURN_IF_ERROR(PostPredicted(model, policy, layer, position, cache, b));
    }
    cache.NewRows(layer, store_rows, window_rows);
    ops.WriteRows(k, v, store_rows, m.head_dim);
    ops.WriteRows(k, v, window_rows, m.head_dim);
    TS_RETURN_IF_ERROR(cache.Attend(layer, q, attn_out));
    ops.MatMulAdd(attn_out, w.wo, x);  // residual
    ops.RmsNorm(x, w.ffn_norm, m.rms_eps, x_norm);
    ops.SwiGlu(x_norm, w.gate, w.up, ffn);
    ops.MatMulAdd(ffn, w.down, x);  // residual
  }
  ops.RmsNorm(x, model.weights.final_norm, m.rms_eps, x_norm);
  ops.MatMul(x_norm, model.weights.lm_head, b.logits);
  return cache.CommitToken(token);
}

}  // namespace tailor
