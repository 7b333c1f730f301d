#include "worker/quality/dense_preference.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "common/status.h"
#include "worker/quality/choosing_fetcher.h"

namespace tailor {

int64_t DensePreferenceOptions::TopEntries(int64_t tokens) const {
  return static_cast<int64_t>(std::floor(alpha * static_cast<double>(tokens)));
}

DensePreferenceProbe::DensePreferenceProbe(Backend* backend, const PoolShape& shape,
                                           int32_t q_heads, int64_t tokens,
                                           const DensePreferenceOptions& options)
    : backend_(backend),
      layers_(shape.layers),
      q_heads_(q_heads),
      group_(q_heads / shape.kv_heads),
      head_dim_(shape.head_dim),
      tokens_(tokens),
      last_queries_(options.last_queries),
      top_entries_(options.TopEntries(tokens)),
      lse_(q_heads),
      mass_(static_cast<size_t>(shape.layers) * q_heads),
      heard_(shape.layers) {
  TS_CHECK(last_queries_ >= 1 && last_queries_ <= tokens);
}

double DensePreferenceProbe::TopMass(int32_t layer, int32_t q_head, const PagedRows& rows,
                                     const AttendCall& call) const {
  const std::span<const float> q(call.q.data + int64_t{q_head} * head_dim_,
                                 static_cast<size_t>(head_dim_));
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim_));
  std::vector<float> row(call.tokens);
  for (int64_t t = 0; t < call.tokens; ++t) {
    const BFloat16* page = rows.pool->Rows(layer, q_head / group_, rows.pages[t / kPageTokens]);
    row[t] = scale * DotKey(q, page + (t % kPageTokens) * 2 * head_dim_);
  }
  const float largest = *std::max_element(row.begin(), row.end());
  for (float& entry : row) entry = std::exp(entry - largest);
  const double sum = std::accumulate(row.begin(), row.end(), 0.0);
  const auto top = row.begin() + std::min(top_entries_, call.tokens);
  // Sorted, so that the order of the additions is that of the values.
  std::partial_sort(row.begin(), top, row.end(), std::greater<>());
  return std::accumulate(row.begin(), top, 0.0) / sum;
}

void DensePreferenceProbe::OnAttend(int32_t layer, const PagedRows& rows, const AttendCall& call) {
  if (call.tokens <= tokens_ - last_queries_) return;
  // Each head has its own sum: the order of additions is that of the steps, on any thread.
  backend_->RunOnHost(q_heads_, [&](int64_t head, int) {
    mass_[int64_t{layer} * q_heads_ + head] +=
        TopMass(layer, static_cast<int32_t>(head), rows, call);
  });
  ++heard_[layer];
}

std::vector<double> DensePreferenceProbe::Scores() const {
  std::vector<double> scores;
  for (int32_t layer = 0; layer < layers_; ++layer) {
    TS_CHECK(heard_[layer] == last_queries_);
    const auto heads = mass_.begin() + int64_t{layer} * q_heads_;
    const double mass = std::accumulate(heads, heads + q_heads_, 0.0);
    const double score = 1 - mass / static_cast<double>(last_queries_ * q_heads_);
    scores.push_back(std::clamp(score, 0.0, 1.0));  // a sum of all entries may round past 1
  }
  return scores;
}

std::vector<int32_t> DenseLayers(std::span<const double> scores,
                                 const DensePreferenceOptions& options) {
  std::vector<int32_t> dense;
  for (size_t layer = 0; layer < scores.size(); ++layer) {
    if (scores[layer] > options.threshold) dense.push_back(static_cast<int32_t>(layer));
  }
  std::stable_sort(dense.begin(), dense.end(),
                   [&](int32_t a, int32_t b) { return scores[a] > scores[b]; });
  if (static_cast<int64_t>(dense.size()) > options.max_quantized_layers) {
    dense.resize(options.max_quantized_layers);
  }
  return dense;
}

}  // namespace tailor
