#include "tests/eval/recall_probe.h"

#include <algorithm>
#include <cmath>

namespace tailor {

RecallProbe::RecallProbe(Backend* backend, int32_t layers, int32_t q_heads)
    : backend_(backend), quality_(layers), lse_(q_heads), exact_lse_(q_heads) {}

void RecallProbe::OnAttend(int32_t layer, const PagedRows& rows, const AttendCall& call) {
  if (call.fetched.count == 0) return;  // quantized, or still exact
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
  LayerQuality& quality = quality_[layer];
  for (size_t head = 0; head < lse_.size(); ++head) {
    const double recall = std::min(1.0, std::exp(double{lse_[head]} - double{exact_lse_[head]}));
    quality.recall_sum += recall;
    quality.worst_recall = std::min(quality.worst_recall, recall);
    ++quality.heads;
  }
  double error = 0, norm = 0;
  for (int64_t i = 0; i < call.out.cols; ++i) {
    const double difference = double{call.out(0, i)} - double{exact_out_[i]};
    error += difference * difference;
    norm += double{exact_out_[i]} * double{exact_out_[i]};
  }
  quality.error_sum += std::sqrt(error / std::max(norm, 1e-30));
  ++quality.steps;
}

}  // namespace tailor
