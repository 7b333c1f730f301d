// Scalar references of the ops in backend.h, straight from their equations: the oracles that every
// backend is tested against. Host memory only. Sums run in double and in order; a result is rounded
// once, where it is stored. Never optimised. QuantizePageRef has a header of its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "common/bfloat16.h"
#include "common/matrix_view.h"
#include "common/model_file/model_file.h"
#include "common/types.h"
#include "worker/ops/attention.h"
#include "worker/ops/logits.h"
#include "worker/ops/quantized_page.h"

namespace tailor {

// A weight's values [rows][cols] from the bytes of its file. A row of a block format is blocks of
// 32:
//   Q8_0  fp16 d, int8 q[32]                      w = d * q
//   Q4_0  fp16 d, nibbles q[32]                   w = d * (q - 8)
//   Q4_1  fp16 d, fp16 m, nibbles q[32]           w = d * q + m
//   nibbles: 16 bytes, q[i] the low half of byte i, q[i + 16] the high half
// and blocks of 256, in which values 32 j to 32 j + 31 are sub-block j:
//   Q4_K  fp16 d, fp16 dmin, s[12], nibbles q[256]   w = d * scale_j * q - dmin * min_j
//         scale_j, min_j: 6 bits; for j < 4 the low ones of s[j] and s[j + 4]; for j >= 4 the low
//         and the high half of s[j + 4] below the two high bits of s[j - 4] and of s[j]
//         nibbles: 32 bytes for sub-blocks 2 i (low halves) and 2 i + 1 (high halves)
//   Q6_K  low[128], high[64], int8 s[16], fp16 d     w = d * s[i / 16] * (q[i] - 32)
//         of each 128 values q[32 r + c]: 4 low bits in half r / 2 of low[32 (r % 2) + c], 2 high
//         bits at 2 r in high[c]
// TS_CHECKs that the bytes fit the shape. Source: the GGUF quantization formats of ggml.
std::vector<float> DequantizeRef(const TensorView& weight);

// x[i] = embedding[tokens[i]]
void EmbedRef(std::span<const TokenId> tokens, MatrixView<const float> embedding,
              MatrixView<float> x);

// out = x / sqrt(mean(x^2) + eps) * gain            x, out: [rows][hidden]; gain: [hidden]
void RmsNormRef(MatrixView<const float> x, std::span<const float> gain, float eps,
                MatrixView<float> out);

// x += bias, in every row                           x: [rows][n]; bias: [n]
void AddBiasRef(std::span<const float> bias, MatrixView<float> x);

// out = x w^T, and out += x w^T             x: [rows][cols], w: [outputs][cols], out:
// [rows][outputs]
void MatMulRef(MatrixView<const float> x, MatrixView<const float> w, MatrixView<float> out);
void MatMulAddRef(MatrixView<const float> x, MatrixView<const float> w, MatrixView<float> out);

// out = silu(x gate^T) * (x up^T),  silu(a) = a / (1 + e^-a)
void SwiGluRef(MatrixView<const float> x, MatrixView<const float> gate, MatrixView<const float> up,
               MatrixView<float> out);

// Turns channel pair i of each head_dim slice by positions[row] * f_i, f_i = theta^(-2i / head_dim)
// scaled as the model says:
//   kLinear   f / factor
//   kLlama3   with turns = original_context * f / 2 pi:   f above high_freq_factor, f / factor
//   below
//             low_freq_factor, between them linear in turns from the one to the other
// A pair is (2i, 2i + 1) or (i, i + head_dim / 2).
void RopeRef(std::span<const int32_t> positions, const LlamaHyperparameters& model,
             MatrixView<float> x);

// rows[i * kv_heads + head] = bf16 of token i's K, then V, of that head: [2][head_dim]
void WriteRowsRef(MatrixView<const float> k, MatrixView<const float> v,
                  std::span<BFloat16* const> rows, int32_t head_dim);

// The equation of attention.h, one softmax over all visible tokens; lse when it is asked for.
void AttendRef(const RowAttention& attention);

// x' = min + code * scale of a whole page: [kPageTokens][2 * head_dim], K then V of each token.
void DequantizePageRef(const std::byte* page, const QuantizedPageShape& shape,
                       MatrixView<float> rows);

// The same equation over the dequantized pages, then the residual.
void AttendQuantizedRef(const QuantizedAttention& attention);

// The equations of logits.h for one row [vocab]. Its values are exact; its sums run in the order of
// the tokens.
LogitReduction ReduceLogitsRef(std::span<const float> logits, const LogitQuery& query);

}  // namespace tailor
