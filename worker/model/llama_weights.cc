#include "worker/model/llama_weights.h"

#include <set>
#include <string>

#include "common/status.h"

namespace tailor {
namespace {

absl::StatusOr<Weight> Load(const ModelFile& file, Backend* ops, const std::string& name) {
  TS_ASSIGN_OR_RETURN(const TensorView tensor, file.Tensor(name));
  auto weight = ops->LoadWeight(tensor);
  if (!weight.ok()) {
    return absl::Status(weight.status().code(),
                        absl::StrCat("tensor ", name, ": ", std::string(weight.status().message())));
  }
  return weight;
}

absl::Status LoadBiases(const ModelFile& file, Backend* ops, const std::string& prefix,
                        LlamaLayer& w) {
  TS_ASSIGN_OR_RETURN(w.bq, Load(file, ops, prefix + "attn_q.bias"));
  TS_ASSIGN_OR_RETURN(w.bk, Load(file, ops, prefix + "attn_k.bias"));
  TS_ASSIGN_OR_RETURN(w.bv, Load(file, ops, prefix + "attn_v.bias"));
  return absl::OkStatus();
}

absl::StatusOr<LlamaLayer> LoadLayer(const ModelFile& file, Backend* ops, int layer) {
  const std::string prefix = absl::StrCat("blk.", layer, ".");
  LlamaLayer w;
  TS_ASSIGN_OR_RETURN(w.attn_norm, Load(file, ops, prefix + "attn_norm.weight"));
  TS_ASSIGN_OR_RETURN(w.wq, Load(file, ops, prefix + "attn_q.weight"));
  TS_ASSIGN_OR_RETURN(w.wk, Load(file, ops, prefix + "attn_k.weight"));
  TS_ASSIGN_OR_RETURN(w.wv, Load(file, ops, prefix + "attn_v.weight"));
  TS_ASSIGN_OR_RETURN(w.wo, Load(file, ops, prefix + "attn_output.weight"));
  TS_ASSIGN_OR_RETURN(w.ffn_norm, Load(file, ops, prefix + "ffn_norm.weight"));
  TS_ASSIGN_OR_RETURN(w.gate, Load(file, ops, prefix + "ffn_gate.weight"));
  TS_ASSIGN_OR_RETURN(w.up, Load(file, ops, prefix + "ffn_up.weight"));
  TS_ASSIGN_OR_RETURN(w.down, Load(file, ops, prefix + "ffn_down.weight"));
  if (file.hyperparameters().qkv_bias) TS_RETURN_IF_ERROR(LoadBiases(file, ops, prefix, w));
  return w;
}

// Shared storage (a tied head) counts once.
int64_t TotalBytes(const LlamaWeights& w) {
  std::set<const WeightStorage*> seen;
  int64_t bytes = 0;
  const auto add = [&](const Weight& weight) {
    if (weight.storage == nullptr) return;  // a bias this family has not
    if (seen.insert(weight.storage.get()).second) bytes += weight.storage->bytes();
  };
  add(w.embedding);
  add(w.final_norm);
  add(w.lm_head);
  for (const LlamaLayer& l : w.layers) {
    for (const Weight* weight : {&l.attn_norm, &l.wq, &l.wk, &l.wv, &l.bq, &l.bk, &l.bv, &l.wo,
                                 &l.ffn_norm, &l.gate, &l.up, &l.down}) {
      add(*weight);
    }
  }
  return bytes;
}

}  // namespace

absl::StatusOr<LlamaModel> LoadLlama(const ModelFile& file, Backend* ops, int64_t context_tokens,
                                     const std::function<void(int, int)>& on_layer) {
  LlamaModel model;
  model.shape = file.hyperparameters();
  model.ops = ops;
  TS_RETURN_IF_ERROR(ops->CheckModel(model.shape));
  LlamaWeights& w = model.weights;
  TS_ASSIGN_OR_RETURN(w.embedding, Load(file, ops, "token_embd.weight"));
  for (int layer = 0; layer < model.shape.layers; ++layer) {
    TS_ASSIGN_OR_RETURN(LlamaLayer loaded, LoadLayer(file, ops, layer));
    w.layers.push_back(std::move(loaded));
    if (on_layer) on_layer(layer + 1, model.shape.layers);
  }
  TS_ASSIGN_OR_RETURN(w.final_norm, Load(file, ops, "output_norm.weight"));
  if (model.shape.tied_embedding) {
    w.lm_head = w.embedding;
  } else {
    TS_ASSIGN_OR_RETURN(w.lm_head, Load(file, ops, "output.weight"));
  }
  w.bytes = TotalBytes(w);
  TS_ASSIGN_OR_RETURN(model.rope, ops->MakeRopeTable(model.shape, context_tokens));
  return model;
}

}  // namespace tailor
