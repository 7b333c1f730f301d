// Exact attention in double over rows that are known functions of their position, for holding
// probes and selections to it.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "tests/worker/cache/cache_rig.h"

namespace tailor {

// Softmax masses [q_heads][tokens] of `q` over the known rows of [0, tokens).
inline std::vector<std::vector<double>> ExactMasses(const HostMatrix& q, int32_t layer,
                                                    int64_t tokens) {
  std::vector<std::vector<double>> masses;
  for (int32_t head = 0; head < kQHeads; ++head) {
    std::vector<double>& mass = masses.emplace_back(tokens, 0.0);
    double sum = 0;
    for (int64_t t = 0; t < tokens; ++t) {
      const auto row = KnownRow(layer, head / (kQHeads / kHeads), t);
      double dot = 0;
      for (int32_t c = 0; c < kHeadDim; ++c) {
        dot += double{q.row(0)[head * kHeadDim + c]} * ToFloat(row[c]);
      }
      sum += mass[t] = std::exp(dot / std::sqrt(double{kHeadDim}));
    }
    for (double& m : mass) m /= sum;
  }
  return masses;
}

// The output [q_heads * head_dim] of attention over the tokens of `attended[kv_head]`.
inline std::vector<double> ExactOutput(const std::vector<std::vector<double>>& masses,
                                       int32_t layer,
                                       const std::vector<std::vector<int64_t>>& attended) {
  std::vector<double> out;
  for (int32_t head = 0; head < kQHeads; ++head) {
    const int32_t kv_head = head / (kQHeads / kHeads);
    std::vector<double> sum(kHeadDim, 0.0);
    double mass = 0;
    for (const int64_t t : attended[kv_head]) {
      const auto row = KnownRow(layer, kv_head, t);
      mass += masses[head][t];
      for (int32_t c = 0; c < kHeadDim; ++c) {
        sum[c] += masses[head][t] * ToFloat(row[kHeadDim + c]);
      }
    }
    for (const double s : sum) out.push_back(s / mass);
  }
  return out;
}

// Sink, window and the rows fetched, [kv_heads], as positions.
inline std::vector<std::vector<int64_t>> Attended(const LayerPolicy& policy,
                                                  std::span<const int32_t> fetched, int32_t count,
                                                  int64_t sealed_tokens, int64_t tokens) {
  std::vector<std::vector<int64_t>> attended;
  for (int32_t head = 0; head < kHeads; ++head) {
    auto& list = attended.emplace_back(Positions(0, policy.sink_tokens));
    for (int32_t i = 0; i < count; ++i) list.push_back(fetched[head * count + i]);
    for (const int64_t t : Positions(sealed_tokens, tokens)) list.push_back(t);
  }
  return attended;
}

}  // namespace tailor
