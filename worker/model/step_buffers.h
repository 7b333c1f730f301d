// Activations of one forward step of up to `rows` tokens, allocated once: nothing allocates inside
// a step. All fp32, device memory.
#pragma once

#include "worker/model/llama_weights.h"

namespace tailor {

struct StepBuffers {
  static absl::StatusOr<StepBuffers> Make(const LlamaModel& model, int64_t rows);

  int64_t rows = 0;
  MatrixView<float> x;        // [rows][hidden], the residual stream
  MatrixView<float> x_norm;   // [rows][hidden]
  MatrixView<float> q;        // [rows][q_heads * head_dim]
  MatrixView<float> k, v;     // [rows][kv_heads * head_dim]
  MatrixView<float> attn_out; // [rows][q_heads * head_dim]
  MatrixView<float> ffn;      // [rows][ffn_hidden]
  MatrixView<float> q_next;   // [1][q_heads * head_dim], the next layer's predicted query
  MatrixView<float> logits;   // [1][vocab], of the newest token
  std::vector<BFloat16*> store_rows, window_rows;  // [rows * kv_heads], destinations of K and V

 private:
  DeviceBuffer memory_;
};

}  // namespace tailor
