#include "worker/quality/attention_probe.h"

#include <algorithm>
#include <cmath>

#include "common/status.h"

namespace tailor {
namespace {

// Two fp32 log-sum-exps of the same scores differ by a few 1e-6 of their size, below 100 for any
// finite model we run. More would mean that a token was attended to twice.
constexpr double kRecallRounding = 1e-3;

}  // namespace

void LayerQuality::Add(const LayerQuality& other) {
  recall_sum += other.recall_sum;
  recall_worst = std::min(recall_worst, other.recall_worst);
  error_sum += other.error_sum;
  heads += other.heads;
  steps += other.steps;
}

AttentionProbe::AttentionProbe(Backend* backend, const LayerPolicy& layers, CacheMode mode,
                               const LlamaHyperparameters& model)
    : backend_(backend), quality_(model.layers), lse_(model.q_heads), exact_lse_(model.q_heads) {
  for (int32_t layer = 0; layer < model.layers; ++layer) {
    has_lse_.push_back(mode == CacheMode::kFull || !layers.IsQuantized(layer));
  }
}

void AttentionProbe::AttendExactly(int32_t layer, const PagedRows& rows, const AttendCall& call) {
  const PoolShape& shape = rows.pool->shape();
  scratch_.Clear(shape.kv_heads);
  for (int32_t head = 0; head < shape.kv_heads; ++head) {
    for (int64_t first = 0; first < rows.tokens; first += kPageTokens) {
      const auto count = static_cast<int32_t>(std::min<int64_t>(kPageTokens, rows.tokens - first));
      scratch_.segments[head].push_back(
          {rows.pool->Rows(layer, head, rows.pages[first / kPageTokens]), count});
    }
  }
  exact_out_.resize(call.out.cols);
  backend_->Attend({.q = call.q,
                    .segments = scratch_.Segments(),
                    .head_dim = shape.head_dim,
                    .mask = Mask::kNone,
                    .out = {exact_out_.data(), 1, call.out.cols},
                    .lse = {exact_lse_.data(), 1, static_cast<int64_t>(exact_lse_.size())}});
}

void AttentionProbe::AddRecall(LayerQuality* quality) const {
  for (size_t head = 0; head < lse_.size(); ++head) {
    const double recall = std::exp(double{lse_[head]} - double{exact_lse_[head]});
    TS_CHECK(recall <= 1 + kRecallRounding);
    quality->recall_sum += std::min(1.0, recall);
    quality->recall_worst = std::min(quality->recall_worst, recall);
    ++quality->heads;
  }
}

void AttentionProbe::AddError(const AttendCall& call, LayerQuality* quality) const {
  double error = 0, norm = 0;
  for (int64_t i = 0; i < call.out.cols; ++i) {
    const double difference = double{call.out(0, i)} - double{exact_out_[i]};
    error += difference * difference;
    norm += double{exact_out_[i]} * double{exact_out_[i]};
  }
  quality->error_sum += std::sqrt(error / std::max(norm, 1e-30));
  ++quality->steps;
}

void AttentionProbe::OnAttend(int32_t layer, const PagedRows& rows, const AttendCall& call) {
  if (rows.sealed_pages == 0) return;
  AttendExactly(layer, rows, call);
  if (has_lse_[layer]) AddRecall(&quality_[layer]);
  AddError(call, &quality_[layer]);
}

}  // namespace tailor
