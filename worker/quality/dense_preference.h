// Which layers are dense: the dense preference score of ALGORITHM §1, from a full cache's decode
// steps, and the rule that turns scores into quantized layers.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "worker/cache/sequence_cache.h"

namespace tailor {

struct DensePreferenceOptions {
  int64_t last_queries = 32;  // the rows of A: the queries of the sequence's last tokens
  double alpha = 0.05;        // the share of tokens that a row's largest entries are taken from
  double threshold = 0.2;     // beta: a layer above it is dense
  // More quantized layers fetch fewer bytes and keep more in device memory.
  int64_t max_quantized_layers = 4;

  // floor(alpha * tokens).
  int64_t TopEntries(int64_t tokens) const;
};

// Listens to a full cache that decodes up to `tokens` tokens in all; hears the last queries:
//
//   P = 1 - (1 / (last_queries * q_heads)) * sum over rows of (the row's largest floor(alpha * n))
//
// with rows of A = softmax(q K^T / sqrt(d)) over the keys a query sees, n = tokens. Dot products
// and exponentials in fp32, sums in double. CPU backends only: reads rows in place.
class DensePreferenceProbe final : public AttendProbe {
 public:
  // Precondition: last_queries <= tokens.
  DensePreferenceProbe(Backend* backend, const PoolShape& shape, int32_t q_heads, int64_t tokens,
                       const DensePreferenceOptions& options);
  MatrixView<float> lse() override { return {lse_.data(), 1, static_cast<int64_t>(lse_.size())}; }
  void OnAttend(int32_t layer, const PagedRows& rows, const AttendCall& call) override;
  // [layers]. Precondition: every last query was heard in every layer.
  std::vector<double> Scores() const;

 private:
  // The sum of the row's largest entries, for one query head.
  double TopMass(int32_t layer, int32_t q_head, const PagedRows& rows,
                 const AttendCall& call) const;

  Backend* backend_;
  const int32_t layers_, q_heads_, group_, head_dim_;
  const int64_t tokens_, last_queries_, top_entries_;
  std::vector<float> lse_;
  std::vector<double> mass_;    // [layers][q_heads], summed over the queries heard
  std::vector<int64_t> heard_;  // [layers]
};

// The layers with a score above the threshold, at most max_quantized_layers, the largest score
// first (of equal ones the lower layer).
std::vector<int32_t> DenseLayers(std::span<const double> scores,
                                 const DensePreferenceOptions& options);

}  // namespace tailor
