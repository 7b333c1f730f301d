// ModelFile over GGUF: what the keys mean, and that the parts fit each other.
#include "common/model_file/model_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>

#include "tests/common/model_file/gguf_bytes.h"
#include "tests/common/model_file/small_llama.h"
#include "tests/support/tiny_model.h"

namespace tailor {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class ModelFileTest : public testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<ModelFile>> OpenBytes(const std::string& bytes) {
    WriteFile(path_, bytes);
    return ModelFile::Open(path_);
  }
  std::string ErrorOf(const std::string& bytes,
                      absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
    const auto file = OpenBytes(bytes);
    EXPECT_EQ(file.status().code(), code) << file.status();
    EXPECT_THAT(std::string(file.status().message()), HasSubstr(path_.string()));
    return std::string(file.status().message());
  }
  std::string ErrorAfter(const std::function<void(SmallLlama&)>& change,
                         absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
    SmallLlama model = MakeSmallLlama();
    change(model);
    return ErrorOf(GgufOf(model), code);
  }

  ScratchDir scratch_;
  const std::filesystem::path path_ = scratch_ / "model.gguf";
};

std::string Text(const char* name, const char* text) { return GgufKey(name, 8, GgufString(text)); }

TEST_F(ModelFileTest, ASmallModelIsReadInFull) {
  const SmallLlama model = MakeSmallLlama();
  const auto file = OpenBytes(GgufOf(model));
  ASSERT_TRUE(file.ok()) << file.status();
  const LlamaHyperparameters& m = (*file)->hyperparameters();
  EXPECT_EQ(m.layers, 2);
  EXPECT_EQ(m.head_dim, 4);
  EXPECT_EQ(m.vocab, 262);
  EXPECT_EQ(m.rope_theta, 50000);
  EXPECT_FALSE(m.tied_embedding);
  EXPECT_EQ(m.rope_layout, RopeLayout::kInterleaved);
  EXPECT_EQ((*file)->name(), "small");
  int64_t bytes = 0;
  for (const auto& [name, tensor] : model.tensors) {
    const auto view = (*file)->Tensor(name);
    ASSERT_TRUE(view.ok()) << view.status();
    EXPECT_EQ(view->name, name);
    ASSERT_EQ(view->bytes.size(), tensor.values.size() * sizeof(float));
    EXPECT_EQ(std::memcmp(view->bytes.data(), tensor.values.data(), view->bytes.size()), 0) << name;
    bytes += static_cast<int64_t>(view->bytes.size());
  }
  EXPECT_EQ((*file)->weight_bytes(), bytes);
  const auto none = (*file)->Tensor("blk.9.attn_q.weight");
  EXPECT_EQ(none.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(none.status().message()), HasSubstr("blk.9.attn_q.weight"));
}

TEST_F(ModelFileTest, AQwen2HasBiasesAndRotatesHalves) {
  const SmallLlama model = MakeSmallQwen2();
  const auto file = OpenBytes(GgufOf(model));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE((*file)->hyperparameters().qkv_bias);
  EXPECT_EQ((*file)->hyperparameters().rope_layout, RopeLayout::kHalf);
  EXPECT_EQ((*file)->hyperparameters().rope_theta, 50000);
  for (const auto& [name, tensor] : model.tensors) {
    const auto view = (*file)->Tensor(name);
    ASSERT_TRUE(view.ok()) << view.status();
    EXPECT_EQ(std::memcmp(view->bytes.data(), tensor.values.data(), view->bytes.size()), 0) << name;
  }
}

TEST_F(ModelFileTest, AQwen2WithoutItsBiasesOrWithALlamasKeysIsRefused) {
  SmallLlama model = MakeSmallQwen2();
  model.tensors.erase("blk.1.attn_k.bias");
  EXPECT_THAT(ErrorOf(GgufOf(model), absl::StatusCode::kNotFound), HasSubstr("blk.1.attn_k.bias"));
  GgufFile llamas_keys;
  llamas_keys.keys = {Text("general.architecture", "qwen2"),
                      GgufKey("llama.block_count", 4, Raw<uint32_t>(2))};
  EXPECT_THAT(ErrorOf(llamas_keys.Bytes(), absl::StatusCode::kNotFound),
              HasSubstr("qwen2.block_count"));
  EXPECT_THAT(ErrorOf(GgufOf(MakeSmallQwen2(),
                             {GgufKey("qwen2.attention.sliding_window", 4, Raw<uint32_t>(64))}),
                      absl::StatusCode::kUnimplemented),
              HasSubstr("sliding window of 64"));
}

TEST_F(ModelFileTest, TheFingerprintFollowsWeightsAndHyperparameters) {
  const SmallLlama model = MakeSmallLlama();
  const auto fingerprint = [&](const std::function<void(SmallLlama&)>& change) {
    SmallLlama changed = model;
    change(changed);
    const auto file = OpenBytes(GgufOf(changed));
    EXPECT_TRUE(file.ok()) << file.status();
    return (*file)->fingerprint();
  };
  const Fingerprint base = fingerprint([](SmallLlama&) {});
  EXPECT_EQ(fingerprint([](SmallLlama& m) { m.tokenizer.chat_template += "x"; }), base);
  EXPECT_NE(fingerprint([](SmallLlama& m) { m.tensors["output.weight"].values[5] += 1; }), base);
  EXPECT_NE(fingerprint([](SmallLlama& m) { m.hyperparameters.rope_theta = 60000; }), base);
  EXPECT_NE(fingerprint([](SmallLlama& m) { m.tensors.erase("output.weight"); }), base);
}

TEST_F(ModelFileTest, PathsThatAreNoModelAreRefused) {
  EXPECT_EQ(ModelFile::Open(scratch_ / "none").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ModelFile::Open(scratch_.path()).status().code(), absl::StatusCode::kNotFound);
  WriteFile(scratch_ / "model.onnx", "not a model");
  const auto other = ModelFile::Open(scratch_ / "model.onnx");
  EXPECT_EQ(other.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(other.status().message()),
              AllOf(HasSubstr("GGUF"), HasSubstr("Hugging Face")));
  EXPECT_THAT(ErrorOf(""), HasSubstr("empty"));
  EXPECT_THAT(ErrorOf("GGML"), HasSubstr("GGUF"));
}

TEST_F(ModelFileTest, AGgufWithoutItsExtensionIsKnownByItsFirstBytes) {
  WriteFile(scratch_ / "blob", GgufOf(MakeSmallLlama()));
  EXPECT_TRUE(ModelFile::Open(scratch_ / "blob").ok());
}

TEST_F(ModelFileTest, WhatThisBuildCannotRunIsUnimplementedByName) {
  const auto kUnimplemented = absl::StatusCode::kUnimplemented;
  GgufFile other;
  other.keys = {Text("general.architecture", "gemma")};
  EXPECT_THAT(ErrorOf(other.Bytes(), kUnimplemented),
              AllOf(HasSubstr("\"gemma\""), HasSubstr("llama, qwen2")));
  const auto with = [&](const std::string& key) {
    return ErrorOf(GgufOf(MakeSmallLlama(), {key}), kUnimplemented);
  };
  EXPECT_THAT(with(GgufKey("llama.expert_count", 4, Raw<uint32_t>(8))), HasSubstr("8 experts"));
  EXPECT_THAT(with(GgufKey("llama.attention.sliding_window", 4, Raw<uint32_t>(4096))),
              HasSubstr("sliding window of 4096 tokens"));
  EXPECT_THAT(with(Text("llama.rope.scaling.type", "yarn")), HasSubstr("\"yarn\""));
  EXPECT_THAT(with(GgufKey("llama.rope.dimension_count", 4, Raw<uint32_t>(2))),
              AllOf(HasSubstr("dimension_count is 2"), HasSubstr("4")));
  EXPECT_THAT(ErrorAfter(
                  [](auto& m) {
                    m.tensors["blk.0.attn_q.bias"] = {1, 16, std::vector<float>(16)};
                  },
                  kUnimplemented),
              HasSubstr("blk.0.attn_q.bias"));
}

TEST_F(ModelFileTest, PartsThatDoNotFitAreRefusedByName) {
  EXPECT_THAT(ErrorAfter([](auto& m) { m.tensors.erase("blk.1.ffn_up.weight"); },
                         absl::StatusCode::kNotFound),
              HasSubstr("blk.1.ffn_up.weight"));
  EXPECT_THAT(ErrorAfter([](auto& m) { m.hyperparameters.hidden = 32; }), HasSubstr("imply"));
  EXPECT_THAT(ErrorAfter([](auto& m) { m.hyperparameters.q_heads = 0; }),
              HasSubstr("head count is 0"));
  EXPECT_THAT(ErrorAfter([](auto& m) { m.tokenizer.kinds.pop_back(); }),
              AllOf(HasSubstr("262 tokens"), HasSubstr("261 token types")));
  EXPECT_THAT(ErrorAfter([](auto& m) { m.tokenizer.eos = 262; }),
              AllOf(HasSubstr("token 262"), HasSubstr("has 262")));
  EXPECT_THAT(ErrorOf(GgufOf(MakeSmallLlama(), {GgufKey("llama.vocab_size", 4, Raw<uint32_t>(7))})),
              AllOf(HasSubstr("vocab_size is 7"), HasSubstr("262")));
}

// Llama 3.1's scaling is in a GGUF only as its result.
TEST_F(ModelFileTest, RopeFactorsGiveBackLlama3sScaling) {
  const auto with_factors = [](const std::vector<float>& factors) {
    SmallLlama model = MakeSmallLlama();
    model.hyperparameters.rope_theta = 1e10f;  // the second of two wavelengths is a long one
    model.tensors["rope_freqs.weight"] = {1, static_cast<int64_t>(factors.size()), factors};
    return GgufOf(model);
  };
  const auto scaled = OpenBytes(with_factors({1, 8}));
  ASSERT_TRUE(scaled.ok()) << scaled.status();
  EXPECT_EQ((*scaled)->hyperparameters().rope_scaling.kind, RopeScaling::Kind::kLlama3);
  EXPECT_EQ((*scaled)->hyperparameters().rope_scaling.factor, 8);
  EXPECT_FALSE((*scaled)->Tensor("rope_freqs.weight").ok()) << "used up";
  const auto plain = OpenBytes(with_factors({1, 1}));
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ((*plain)->hyperparameters().rope_scaling.kind, RopeScaling::Kind::kNone);
  EXPECT_THAT(ErrorOf(with_factors({2, 8}), absl::StatusCode::kUnimplemented),
              HasSubstr("has 2 at 0"));
  EXPECT_THAT(ErrorOf(with_factors({1, std::nanf("")}), absl::StatusCode::kUnimplemented),
              HasSubstr("at 1"));
  EXPECT_THAT(ErrorOf(with_factors({1, 1, 1})), AllOf(HasSubstr("1 x 3"), HasSubstr("1 x 2")));
}

TEST_F(ModelFileTest, EveryShorterFileIsAnErrorOrNotRead) {
  const std::string bytes = GgufOf(MakeSmallLlama());
  const size_t data = bytes.size() - bytes.size() / 8;
  for (size_t length = 1; length < bytes.size(); length += length < data ? 97 : 211) {
    EXPECT_FALSE(OpenBytes(bytes.substr(0, length)).ok()) << length;
  }
}

TEST_F(ModelFileTest, TheDefaultModelIsWhatItSaysItIs) {
  const char* path = std::getenv("TAILOR_TEST_MODEL");
  if (path == nullptr) GTEST_SKIP() << "TAILOR_TEST_MODEL is not set";
  const auto file = ModelFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  const LlamaHyperparameters& m = (*file)->hyperparameters();
  EXPECT_EQ(m.layers, 30);
  EXPECT_EQ(m.hidden, 576);
  EXPECT_EQ(m.q_heads, 9);
  EXPECT_EQ(m.kv_heads, 3);
  EXPECT_EQ(m.head_dim, 64);
  EXPECT_EQ(m.ffn_hidden, 1536);
  EXPECT_EQ(m.vocab, 49152);
  EXPECT_EQ(m.context_tokens, 8192);
  EXPECT_EQ(m.rope_theta, 100000);
  EXPECT_EQ(m.rms_eps, 1e-5f);
  EXPECT_TRUE(m.tied_embedding);
  EXPECT_EQ((*file)->Tensor("token_embd.weight")->dtype, DType::kQ8_0);
  const auto down = *(*file)->Tensor("blk.29.ffn_down.weight");
  EXPECT_EQ(down.dtype, DType::kQ4_1);
  EXPECT_EQ(down.rows, 576);
  EXPECT_EQ(down.cols, 1536);
  EXPECT_EQ(down.bytes.size(), 576u * 1536 / 32 * 20);
  EXPECT_EQ((*file)->Tensor("blk.0.attn_norm.weight")->dtype, DType::kF32);
  EXPECT_EQ((*file)->tokenizer().pre_tokenizer, "smollm");
  EXPECT_EQ((*file)->tokenizer().eos, 2);
}

}  // namespace
}  // namespace tailor
