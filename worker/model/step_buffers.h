// Activations of one forward step, of up to `rows` tokens of a prefill or `batch` sequences' next
// ones, allocated once: nothing allocates inside a step. All fp32, device memory.
#pragma once

#include "worker/model/llama_weights.h"

namespace tailor {

struct StepBuffers {
  static absl::StatusOr<StepBuffers> Make(const LlamaModel& model, int64_t rows, int64_t batch);

  static int64_t Bytes(const LlamaHyperparameters& model, int64_t rows, int64_t batch);

  int64_t rows = 0;           // of a prefill's unit; with more in a batch, there is room for those
  MatrixView<float> x;        // [rows][hidden], the residual stream
  MatrixView<float> x_norm;   // [rows][hidden]
  MatrixView<float> q;        // [rows][q_heads * head_dim]
  MatrixView<float> k, v;     // [rows][kv_heads * head_dim]
  MatrixView<float> attn_out; // [rows][q_heads * head_dim]
  MatrixView<float> ffn;      // [rows][ffn_hidden]
  MatrixView<float> q_next[2];  // [batch][q_heads * head_dim], predicted: of even layers, of odd
  MatrixView<float> logits;     // [batch][vocab], of each sequence's newest token
  std::vector<BFloat16*> store_rows, window_rows;  // [rows * kv_heads], destinations of K and V
  std::vector<TokenId> tokens;                     // [batch]
  std::vector<int32_t> positions;                  // [batch]

 private:
  // Places the matrices from `base` on; returns how many floats they are.
  int64_t Layout(const LlamaHyperparameters& model, int64_t batch, float* base);
  DeviceBuffer memory_;
};

}  // namespace tailor
