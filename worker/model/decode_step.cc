#include "worker/model/decode_step.h"

#include "common/status.h"
#include "worker/model/fetch_window.h"
#include "worker/model/project.h"

namespace tailor {
namespace {

// One step: the rows' products together, their caches one by one.
class Step {
 public:
  Step(const LlamaModel& model, const LayerPolicy& policy, std::span<DecodeRow> rows,
       StepBuffers& b)
      : model_(model),
        ops_(*model.ops),
        predicts_(policy.query == QueryMode::kPredicted),
        predict_norm_(policy.predict_norm),
        rows_(rows),
        count_(static_cast<int32_t>(rows.size())),
        b_(b),
        fetches_(model.ops, rows),
        positions_(b.positions.data(), rows.size()),
        x_(b.x.Rows(0, count_)),
        x_norm_(b.x_norm.Rows(0, count_)),
        q_(b.q.Rows(0, count_)),
        k_(b.k.Rows(0, count_)),
        v_(b.v.Rows(0, count_)),
        attn_out_(b.attn_out.Rows(0, count_)),
        ffn_(b.ffn.Rows(0, count_)) {}

  void Run();

 private:
  void Embed();
  void RunLayer(int32_t layer);
  bool Fetches(int32_t row, int32_t layer) const;
  void WantPredicted(int32_t next);
  void PostAhead();
  void Project(int32_t layer);
  void AttendRows(int32_t layer);

  const LlamaModel& model_;
  Backend& ops_;
  const bool predicts_;
  const PredictNorm predict_norm_;
  const std::span<DecodeRow> rows_;
  const int32_t count_;
  StepBuffers& b_;
  FetchWindow fetches_;
  const std::span<int32_t> positions_;
  const MatrixView<float> x_, x_norm_, q_, k_, v_, attn_out_, ffn_;
};

void Step::Run() {
  ops_.BeginStep(count_);
  Embed();
  for (int32_t layer = 0; layer < model_.shape.layers; ++layer) RunLayer(layer);
  ops_.RmsNorm(x_, model_.weights.final_norm, model_.shape.rms_eps, x_norm_);
  ops_.MatMul(x_norm_, model_.weights.lm_head, b_.logits.Rows(0, count_));
  ops_.EndStep();  // whatever became of the rows
  for (DecodeRow& row : rows_) {
    if (row.status.ok()) row.status = row.cache->CommitToken(row.token);
  }
}

void Step::Embed() {
  for (int32_t i = 0; i < count_; ++i) {
    TS_DCHECK(rows_[i].status.ok());
    b_.tokens[i] = rows_[i].token;
    positions_[i] = static_cast<int32_t>(rows_[i].cache->tokens());
  }
  ops_.Embed(std::span(b_.tokens.data(), rows_.size()), model_.weights.embedding, x_);
}

bool Step::Fetches(int32_t row, int32_t layer) const {
  return rows_[row].status.ok() && rows_[row].cache->Fetches(layer);
}

// q of layer `next` guessed from its predecessor's input: RoPE(Wq norm(x) + bq). ALGORITHM §3.2.
// Two layers' queries are kept: those of the layer at hand may still wait for a slot.
void Step::WantPredicted(int32_t next) {
  if (next == model_.shape.layers) return;
  bool wanted = false;
  const MatrixView<float> q = b_.q_next[next % 2].Rows(0, count_);
  for (int32_t i = 0; i < count_; ++i) {
    if (!Fetches(i, next)) continue;
    wanted = true;
    fetches_.Want(i, next, q.row(i));
  }
  if (!wanted) return;
  const std::vector<LlamaLayer>& layers = model_.weights.layers;
  const int32_t norm = predict_norm_ == PredictNorm::kNext ? next : next - 1;
  ops_.RmsNorm(x_, layers[norm].attn_norm, model_.shape.rms_eps, x_norm_);
  ProjectQ(model_, layers[next], positions_, x_norm_, q);
}

// With nothing of any row's own before or after it.
void Step::PostAhead() {
  fetches_.PostAhead();
  ops_.EndLanes();
}

// Q, and the rows of K and V in their places.
void Step::Project(int32_t layer) {
  const int32_t kv_heads = model_.shape.kv_heads;
  const size_t pointers = rows_.size() * kv_heads;
  const std::span store_rows(b_.store_rows.data(), pointers);
  const std::span window_rows(b_.window_rows.data(), pointers);
  for (int32_t i = 0; i < count_; ++i) {
    rows_[i].cache->NewRows(layer, store_rows.subspan(i * kv_heads, kv_heads),
                            window_rows.subspan(i * kv_heads, kv_heads));
  }
  ProjectQkvToRows(model_, model_.weights.layers[layer], positions_, x_norm_, q_, k_, v_,
                   store_rows, window_rows);
}

// The part of a layer that is each sequence's own: sequences side by side where the backend can.
void Step::AttendRows(int32_t layer) {
  for (int32_t i = 0; i < count_; ++i) {
    fetches_.PostAhead();
    fetches_.Attend(i, layer, q_.Rows(i, 1), attn_out_.Rows(i, 1));
  }
  ops_.EndLanes();
}

void Step::RunLayer(int32_t layer) {
  const LlamaLayer& w = model_.weights.layers[layer];
  const float eps = model_.shape.rms_eps;
  if (predicts_ && layer > 0) {
    WantPredicted(layer + 1);
    PostAhead();
  }
  ops_.RmsNorm(x_, w.attn_norm, eps, x_norm_);
  Project(layer);
  // Layer 0 has no layer before it: its own query is there in time.
  for (int32_t i = 0; i < count_ && (!predicts_ || layer == 0); ++i) {
    if (Fetches(i, layer)) fetches_.Want(i, layer, q_.row(i));
  }
  // Rows are taken in the order of the posts: a sparse layer 0 posts before it predicts layer 1.
  if (predicts_ && layer == 0) WantPredicted(1);
  PostAhead();
  AttendRows(layer);
  ops_.MatMulAdd(attn_out_, w.wo, x_);  // residual
  ops_.RmsNorm(x_, w.ffn_norm, eps, x_norm_);
  ops_.SwiGlu(x_norm_, w.gate, w.up, ffn_);
  ops_.MatMulAdd(ffn_, w.down, x_);  // residual
}

}  // namespace

void DecodeStep(const LlamaModel& model, const LayerPolicy& policy, std::span<DecodeRow> rows,
                StepBuffers& b) {
  TS_CHECK(!rows.empty() && static_cast<int64_t>(rows.size()) <= b.logits.rows);
  Step(model, policy, rows, b).Run();
}

absl::Status DecodeStep(const LlamaModel& model, const LayerPolicy& policy, TokenId token,
                        SequenceCache& cache, StepBuffers& b) {
  DecodeRow row = {.token = token, .cache = &cache, .status = {}};
  DecodeStep(model, policy, std::span(&row, 1), b);
  return row.status;
}

}  // namespace tailor
