// Attention of one sequence over rows (K and V of single tokens, bf16) and over quantized pages.
//
//   out[i][h] = sum_t softmax_t( q[i][h] . K[t] / sqrt(head_dim) ) V[t]
//
// Query head h reads KV head h / (q_heads / kv_heads). Source: ALGORITHM §2, §3.5.
#pragma once

#include <cstdint>
#include <span>

#include "common/bfloat16.h"
#include "common/matrix_view.h"
#include "worker/ops/quantized_page.h"

namespace tailor {

// `tokens` consecutive rows in memory: [tokens][2][head_dim], K then V of each token.
struct RowSegment {
  const BFloat16* rows = nullptr;
  int32_t tokens = 0;
};

enum class Mask {
  kNone,    // every query sees every row
  kCausal,  // query i of n sees all rows but the last n - 1 - i: the queries are the newest tokens
};

// What one layer's queries attend to. All KV heads hold the same number of tokens.
struct RowAttention {
  MatrixView<const float> q;                             // [queries][q_heads * head_dim], roped
  std::span<const std::span<const RowSegment>> segments;  // [kv_heads][any], in token order
  int32_t head_dim = 0;
  Mask mask = Mask::kNone;
  MatrixView<float> out;  // [queries][q_heads * head_dim]
  // Optional, [queries][q_heads]: natural log of the softmax denominator over `segments`, of scores
  // scaled by 1/sqrt(head_dim). Serves mass recall (ALGORITHM §6).
  MatrixView<float> lse;
  // Optional, [kv_heads][any]: rows that each stand for e^mean_log_weight tokens, the means of
  // tokens that are not attended to themselves (ALGORITHM §3.5). In `out`, not in `lse`. Only for a
  // call of one query.
  std::span<const std::span<const RowSegment>> means = {};
  float mean_log_weight = 0;
};

// Decode attention of a quantized layer: sealed codes first, then the full-precision residual.
struct QuantizedAttention {
  MatrixView<const float> q;                                  // [1][q_heads * head_dim]
  QuantizedPageShape shape;
  std::span<const std::span<const std::byte* const>> pages;   // [kv_heads][pages], each one page
  std::span<const std::span<const RowSegment>> residual;       // [kv_heads][any]
  MatrixView<float> out;                                       // [1][q_heads * head_dim]
};

}  // namespace tailor
