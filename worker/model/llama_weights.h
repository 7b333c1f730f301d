// The weights of a model of Llama's kind on a backend, by role.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "common/model_file/model_file.h"
#include "worker/ops/backend.h"

namespace tailor {

struct LlamaLayer {
  Weight attn_norm;           // [1][hidden]
  Weight wq;                  // [q_heads * head_dim][hidden]
  Weight wk, wv;              // [kv_heads * head_dim][hidden]
  Weight bq, bk, bv;          // [1][rows of wq, wk, wv]; only where shape.qkv_bias
  Weight wo;                  // [hidden][q_heads * head_dim]
  Weight ffn_norm;            // [1][hidden]
  Weight gate, up;            // [ffn_hidden][hidden]
  Weight down;                // [hidden][ffn_hidden]
};

struct LlamaWeights {
  Weight embedding;           // [vocab][hidden]
  std::vector<LlamaLayer> layers;
  Weight final_norm;          // [1][hidden]
  Weight lm_head;             // [vocab][hidden]; the embedding itself when tied
  int64_t bytes = 0;          // on the backend
};

// A model ready to run: immutable, one backend's.
struct LlamaModel {
  LlamaHyperparameters shape;
  LlamaWeights weights;
  RopeTable rope;
  Backend* ops = nullptr;
};

// Loads every tensor; `on_layer(done, total)` reports progress. Errors: those of ModelFile::Tensor and
// Backend::LoadWeight, naming the tensor.
absl::StatusOr<LlamaModel> LoadLlama(const ModelFile& file, Backend* ops, int64_t context_tokens,
                                     const std::function<void(int, int)>& on_layer);

}  // namespace tailor
