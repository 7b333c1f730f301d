#include "common/model_file/llama_tensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tailor {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Tensors = std::map<std::string, TensorView, std::less<>>;

LlamaHyperparameters Model() {
  LlamaHyperparameters m;
  m.layers = 1;
  m.hidden = 32;
  m.q_heads = 4;
  m.kv_heads = 2;
  m.head_dim = 6;  // so that q_heads * head_dim is not hidden
  m.ffn_hidden = 64;
  m.vocab = 50;
  m.tied_embedding = true;
  return m;
}

Tensors GoodTensors() {
  Tensors tensors;
  const auto add = [&](const char* name, int64_t rows, int64_t cols) {
    tensors[name] = TensorView{.rows = rows, .cols = cols};
  };
  add("token_embd.weight", 50, 32);
  add("output_norm.weight", 1, 32);
  add("blk.0.attn_norm.weight", 1, 32);
  add("blk.0.attn_q.weight", 24, 32);
  add("blk.0.attn_k.weight", 12, 32);
  add("blk.0.attn_v.weight", 12, 32);
  add("blk.0.attn_output.weight", 32, 24);
  add("blk.0.ffn_norm.weight", 1, 32);
  add("blk.0.ffn_gate.weight", 64, 32);
  add("blk.0.ffn_up.weight", 64, 32);
  add("blk.0.ffn_down.weight", 32, 64);
  return tensors;
}

std::string ErrorOf(const LlamaHyperparameters& model, const Tensors& tensors,
                    absl::StatusCode code) {
  const absl::Status status = ValidateTensors(model, tensors);
  EXPECT_EQ(status.code(), code) << status;
  return std::string(status.message());
}

TEST(LlamaTensors, TheNeededOnesAreEnough) {
  EXPECT_TRUE(ValidateTensors(Model(), GoodTensors()).ok());
}

TEST(LlamaTensors, BiasesAreNeededWhereTheFamilyHasThem) {
  LlamaHyperparameters model = Model();
  model.qkv_bias = true;
  Tensors tensors = GoodTensors();
  EXPECT_THAT(ErrorOf(model, tensors, absl::StatusCode::kNotFound), HasSubstr("blk.0.attn_q.bias"));
  tensors["blk.0.attn_q.bias"] = TensorView{.rows = 1, .cols = 24};
  tensors["blk.0.attn_k.bias"] = TensorView{.rows = 1, .cols = 12};
  tensors["blk.0.attn_v.bias"] = TensorView{.rows = 1, .cols = 12};
  EXPECT_TRUE(ValidateTensors(model, tensors).ok());
  tensors["blk.0.attn_v.bias"].cols = 24;
  EXPECT_THAT(ErrorOf(model, tensors, absl::StatusCode::kInvalidArgument),
              AllOf(HasSubstr("blk.0.attn_v.bias is 1 x 24"), HasSubstr("1 x 12")));
}

TEST(LlamaTensors, EachMissingOneIsNotFoundByName) {
  for (const auto& [name, view] : GoodTensors()) {
    Tensors tensors = GoodTensors();
    tensors.erase(name);
    EXPECT_THAT(ErrorOf(Model(), tensors, absl::StatusCode::kNotFound),
                AllOf(HasSubstr("tensor " + name + " is missing"), HasSubstr("needs 11")));
  }
  LlamaHyperparameters untied = Model();
  untied.tied_embedding = false;
  EXPECT_THAT(ErrorOf(untied, GoodTensors(), absl::StatusCode::kNotFound),
              HasSubstr("output.weight"));
}

TEST(LlamaTensors, EachWrongShapeIsNamedWithTheRightOne) {
  for (const auto& [name, view] : GoodTensors()) {
    Tensors tensors = GoodTensors();
    tensors[name].rows += 1;
    EXPECT_THAT(ErrorOf(Model(), tensors, absl::StatusCode::kInvalidArgument),
                AllOf(HasSubstr("tensor " + name),
                      HasSubstr(std::to_string(view.rows) + " x " + std::to_string(view.cols))));
  }
}

TEST(LlamaTensors, NormsAreNotQuantized) {
  Tensors tensors = GoodTensors();
  tensors["output_norm.weight"].dtype = DType::kQ8_0;
  EXPECT_THAT(ErrorOf(Model(), tensors, absl::StatusCode::kInvalidArgument),
              AllOf(HasSubstr("output_norm.weight is Q8_0"), HasSubstr("F32, F16 or BF16")));
  tensors["output_norm.weight"].dtype = DType::kBF16;
  EXPECT_TRUE(ValidateTensors(Model(), tensors).ok());
}

TEST(LlamaTensors, WhatTheForwardPassWouldIgnoreIsUnimplemented) {
  for (const char* name : {"blk.0.attn_q.bias", "blk.1.attn_q.weight", "output.weight"}) {
    Tensors tensors = GoodTensors();
    tensors[name] = TensorView{.rows = 1, .cols = 32};
    EXPECT_THAT(ErrorOf(Model(), tensors, absl::StatusCode::kUnimplemented), HasSubstr(name));
  }
}

TEST(LlamaTensors, HuggingFaceNamesAreTranslatedOrUnknown) {
  const std::vector<std::pair<std::string, std::string>> names = {
      {"model.embed_tokens.weight", "token_embd.weight"},
      {"model.norm.weight", "output_norm.weight"},
      {"lm_head.weight", "output.weight"},
      {"model.layers.3.input_layernorm.weight", "blk.3.attn_norm.weight"},
      {"model.layers.3.self_attn.q_proj.weight", "blk.3.attn_q.weight"},
      {"model.layers.3.self_attn.k_proj.weight", "blk.3.attn_k.weight"},
      {"model.layers.3.self_attn.v_proj.weight", "blk.3.attn_v.weight"},
      {"model.layers.3.self_attn.q_proj.bias", "blk.3.attn_q.bias"},
      {"model.layers.3.self_attn.k_proj.bias", "blk.3.attn_k.bias"},
      {"model.layers.3.self_attn.v_proj.bias", "blk.3.attn_v.bias"},
      {"model.layers.3.self_attn.o_proj.weight", "blk.3.attn_output.weight"},
      {"model.layers.10.post_attention_layernorm.weight", "blk.10.ffn_norm.weight"},
      {"model.layers.10.mlp.gate_proj.weight", "blk.10.ffn_gate.weight"},
      {"model.layers.10.mlp.up_proj.weight", "blk.10.ffn_up.weight"},
      {"model.layers.0.mlp.down_proj.weight", "blk.0.ffn_down.weight"}};
  for (const auto& [theirs, ours] : names) EXPECT_EQ(CanonicalFromHuggingFace(theirs), ours);
  for (const char* name :
       {"", "model.layers.", "model.layers.3", "model.layers..mlp.down_proj.weight",
        "model.layers.03.mlp.down_proj.weight", "model.layers.-1.mlp.down_proj.weight",
        "model.layers.99999.mlp.down_proj.weight", "model.layers.3.mlp.down_proj.bias",
        "model.layers.3.self_attn.o_proj.bias", "model.layers.3.self_attn.rotary_emb.inv_freq",
        "Model.norm.weight"}) {
    EXPECT_EQ(CanonicalFromHuggingFace(name), std::nullopt) << name;
  }
}

}  // namespace
}  // namespace tailor
