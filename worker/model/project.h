// Q, K and V of a layer from its normed input: product, bias where the family has one, rotation of
// Q and K. Row i of every matrix is at positions[i].
#pragma once

#include <span>

#include "worker/model/llama_weights.h"

namespace tailor {

// x: [rows][hidden], q: [rows][q_heads * head_dim], k, v: [rows][kv_heads * head_dim]
void ProjectQkv(const LlamaModel& model, const LlamaLayer& layer,
                std::span<const int32_t> positions, MatrixView<const float> x, MatrixView<float> q,
                MatrixView<float> k, MatrixView<float> v);

// The same; K and V become the rows at `rows` and at `more_rows` too (Backend::WriteRows).
void ProjectQkvToRows(const LlamaModel& model, const LlamaLayer& layer,
                      std::span<const int32_t> positions, MatrixView<const float> x,
                      MatrixView<float> q, MatrixView<float> k, MatrixView<float> v,
                      std::span<BFloat16* const> rows, std::span<BFloat16* const> more_rows);

// Parts of the first, with the same results.
void ProjectQ(const LlamaModel& model, const LlamaLayer& layer, std::span<const int32_t> positions,
              MatrixView<const float> x, MatrixView<float> q);
void ProjectKv(const LlamaModel& model, const LlamaLayer& layer, std::span<const int32_t> positions,
               MatrixView<const float> x, MatrixView<float> k, MatrixView<float> v);

}  // namespace tailor
