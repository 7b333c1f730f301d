// A Hugging Face directory gives what the GGUF of the same weights gives.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>

#include "common/model_file/model_file.h"
#include "tests/common/model_file/small_llama.h"
#include "tests/support/tiny_model.h"

namespace tailor {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

class HfDirectoryTest : public testing::Test {
 protected:
  void SetUp() override { WriteHfDirectory(model_, directory_); }

  std::unique_ptr<ModelFile> Open() {
    auto file = ModelFile::Open(directory_);
    EXPECT_TRUE(file.ok()) << file.status();
    return file.ok() ? *std::move(file) : nullptr;
  }
  std::string Error(absl::StatusCode code) {
    const auto file = ModelFile::Open(directory_);
    EXPECT_EQ(file.status().code(), code) << file.status();
    return std::string(file.status().message());
  }
  std::string ErrorOfConfig(const std::function<void(json&)>& change,
                            absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
    json config = json::parse(ConfigJsonOf(model_));
    change(config);
    WriteFile(directory_ / "config.json", config.dump());
    return Error(code);
  }

  SmallLlama model_ = MakeSmallLlama();
  ScratchDir scratch_;
  const std::filesystem::path directory_ = scratch_ / "small";
};

class HfDirectoryFamilyTest : public HfDirectoryTest, public testing::WithParamInterface<bool> {};
INSTANTIATE_TEST_SUITE_P(Family, HfDirectoryFamilyTest, testing::Values(false, true),
                         [](const auto& info) { return info.param ? "Qwen2" : "Llama"; });

TEST_P(HfDirectoryFamilyTest, EqualsTheGgufOfTheSameWeights) {
  if (GetParam()) model_ = MakeSmallQwen2();
  WriteHfDirectory(model_, directory_);
  WriteFile(scratch_ / "small.gguf", GgufOf(model_));
  const auto hf = Open();
  const auto gguf = ModelFile::Open(scratch_ / "small.gguf");
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  ASSERT_NE(hf, nullptr);
  const auto &a = hf->hyperparameters(), &b = (*gguf)->hyperparameters();
  EXPECT_EQ(std::tie(a.layers, a.hidden, a.q_heads, a.kv_heads, a.head_dim, a.ffn_hidden, a.vocab),
            std::tie(b.layers, b.hidden, b.q_heads, b.kv_heads, b.head_dim, b.ffn_hidden, b.vocab));
  EXPECT_EQ(std::tie(a.context_tokens, a.rope_theta, a.rms_eps, a.tied_embedding, a.qkv_bias),
            std::tie(b.context_tokens, b.rope_theta, b.rms_eps, b.tied_embedding, b.qkv_bias));
  EXPECT_EQ(a.rope_layout, RopeLayout::kHalf);
  EXPECT_EQ(b.rope_layout, model_.family->gguf_rope_layout);
  EXPECT_EQ(hf->weight_bytes(), (*gguf)->weight_bytes());
  for (const auto& [name, tensor] : model_.tensors) {
    const auto x = hf->Tensor(name), y = (*gguf)->Tensor(name);
    ASSERT_TRUE(x.ok() && y.ok()) << name;
    EXPECT_EQ(std::tie(x->name, x->dtype, x->rows, x->cols),
              std::tie(y->name, y->dtype, y->rows, y->cols));
    EXPECT_TRUE(std::ranges::equal(x->bytes, y->bytes)) << name;
  }
  const auto &s = hf->tokenizer(), &t = (*gguf)->tokenizer();
  EXPECT_EQ(std::tie(s.tokens, s.kinds, s.merges, s.pre_tokenizer, s.bos, s.eos, s.unknown,
                     s.add_bos, s.chat_template),
            std::tie(t.tokens, t.kinds, t.merges, t.pre_tokenizer, t.bos, t.eos, t.unknown,
                     t.add_bos, t.chat_template));
  EXPECT_EQ(hf->name(), "small");
}

TEST_F(HfDirectoryTest, ShardsBehindAnIndexAreOneModel) {
  SmallLlama first = model_, second = model_;
  json map;
  for (const auto& [name, tensor] : model_.tensors) {
    (name < "blk.1" ? second : first).tensors.erase(name);
  }
  map["any"] = "a.safetensors";
  map["other"] = "b.safetensors";
  std::filesystem::remove(directory_ / "model.safetensors");
  WriteFile(directory_ / "a.safetensors", SafetensorsOf(first));
  WriteFile(directory_ / "b.safetensors", SafetensorsOf(second));
  WriteFile(directory_ / "model.safetensors.index.json", json{{"weight_map", map}}.dump());
  const auto sharded = Open();
  ASSERT_NE(sharded, nullptr);
  EXPECT_TRUE(sharded->Tensor("output.weight").ok());

  WriteFile(directory_ / "b.safetensors", SafetensorsOf(model_));
  EXPECT_THAT(Error(absl::StatusCode::kInvalidArgument), HasSubstr("is in two files"));
  for (const char* name : {"../a.safetensors", "/etc/passwd", "a.bin", ""}) {
    WriteFile(directory_ / "model.safetensors.index.json",
              json{{"weight_map", {{"any", name}}}}.dump());
    EXPECT_THAT(Error(absl::StatusCode::kInvalidArgument),
                AllOf(HasSubstr(name), HasSubstr("*.safetensors")));
  }
}

TEST_F(HfDirectoryTest, EachMissingFileIsNotFoundByName) {
  for (const char* name : {"config.json", "tokenizer.json", "model.safetensors"}) {
    WriteHfDirectory(model_, directory_);
    std::filesystem::remove(directory_ / name);
    EXPECT_THAT(Error(absl::StatusCode::kNotFound), HasSubstr(name));
  }
}

TEST_F(HfDirectoryTest, BadNumbersInTheConfigAreNamed) {
  EXPECT_THAT(ErrorOfConfig([](json& c) { c.erase("hidden_size"); }),
              HasSubstr("hidden_size is missing"));
  EXPECT_THAT(ErrorOfConfig([](json& c) { c["hidden_size"] = "16"; }),
              HasSubstr("hidden_size is \"16\", must be a 64-bit integer"));
  EXPECT_THAT(ErrorOfConfig([](json& c) { c["hidden_size"] = ~uint64_t{0}; }),
              HasSubstr("18446744073709551615"));
  EXPECT_THAT(ErrorOfConfig([](json& c) { c["hidden_size"] = int64_t{1} << 40; }),
              HasSubstr("limit is 32 bits"));
  EXPECT_THAT(ErrorOfConfig([](json& c) { c["num_attention_heads"] = 0; }), HasSubstr("head"));
  EXPECT_THAT(ErrorOfConfig([](json& c) { c["vocab_size"] = 100; }),
              AllOf(HasSubstr("262 tokens"), HasSubstr("vocab_size is 100")));
  EXPECT_THAT(ErrorOfConfig([](json& c) { c["eos_token_id"] = 100000; }),
              HasSubstr("eos_token_id"));
  EXPECT_THAT(ErrorOfConfig([](json& c) { c["rope_theta"] = "big"; }), HasSubstr("rope_theta"));
  EXPECT_THAT(
      ErrorOfConfig([](json& c) { c["num_hidden_layers"] = 3; }, absl::StatusCode::kNotFound),
      HasSubstr("blk.2."));
  WriteFile(directory_ / "config.json", "[1]");
  EXPECT_THAT(Error(absl::StatusCode::kInvalidArgument), HasSubstr("not a JSON object"));
}

TEST_F(HfDirectoryTest, WhatThisBuildCannotRunIsUnimplementedByName) {
  const auto code = absl::StatusCode::kUnimplemented;
  EXPECT_THAT(ErrorOfConfig([](json& c) { c["architectures"] = {"GemmaForCausalLM"}; }, code),
              AllOf(HasSubstr("GemmaForCausalLM"), HasSubstr("Qwen2ForCausalLM")));
  EXPECT_THAT(ErrorOfConfig([](json& c) { c["attention_bias"] = true; }, code),
              HasSubstr("attention_bias"));
  EXPECT_THAT(ErrorOfConfig([](json& c) { c["use_sliding_window"] = true; }, code),
              HasSubstr("use_sliding_window is true"));
  EXPECT_THAT(ErrorOfConfig([](json& c) { c["hidden_act"] = "gelu"; }, code), HasSubstr("gelu"));
  EXPECT_THAT(ErrorOfConfig(
                  [](json& c) {
                    c["rope_scaling"] = {{"rope_type", "yarn"}};
                  },
                  code),
              HasSubstr("yarn"));
}

TEST_F(HfDirectoryTest, Llama3ScalingIsReadFromEitherPlace) {
  const json scaling = {{"rope_type", "llama3"},
                        {"factor", 32},
                        {"low_freq_factor", 1},
                        {"high_freq_factor", 4},
                        {"original_max_position_embeddings", 4096}};
  for (const bool in_parameters : {false, true}) {
    json config = json::parse(ConfigJsonOf(model_));
    config[in_parameters ? "rope_parameters" : "rope_scaling"] = scaling;
    if (in_parameters) config["rope_parameters"]["rope_theta"] = 7000;
    WriteFile(directory_ / "config.json", config.dump());
    const auto file = Open();
    ASSERT_NE(file, nullptr);
    const LlamaHyperparameters& m = file->hyperparameters();
    EXPECT_EQ(m.rope_scaling.kind, RopeScaling::Kind::kLlama3);
    EXPECT_EQ(m.rope_scaling.factor, 32);
    EXPECT_EQ(m.rope_scaling.original_context, 4096);
    EXPECT_EQ(m.rope_theta, in_parameters ? 7000 : 50000);
  }
}

TEST_F(HfDirectoryTest, TheVocabularyIsPaddedAndEndsAreCollected) {
  SmallLlama padded = model_;
  padded.hyperparameters.vocab += 10;
  for (const char* name : {"token_embd.weight", "output.weight"}) {
    padded.tensors[name].rows += 10;
    padded.tensors[name].values.resize(padded.tensors[name].values.size() + 160);
  }
  WriteHfDirectory(padded, directory_);
  WriteFile(directory_ / "generation_config.json", R"({"eos_token_id": [2, 0]})");
  WriteFile(directory_ / "chat_template.jinja", "from the file <|im_start|>");
  const auto file = Open();
  ASSERT_NE(file, nullptr);
  EXPECT_EQ(file->tokenizer().tokens.size(), 272u);
  EXPECT_EQ(file->tokenizer().kinds.back(), TokenKind::kUnused);
  EXPECT_EQ(file->tokenizer().eos, 2);
  EXPECT_THAT(file->tokenizer().extra_end_of_generation, testing::ElementsAre(0));
  EXPECT_EQ(file->tokenizer().chat_template, "from the file <|im_start|>");
}

// nlohmann::json copies and prints by recursion; neither may happen to what an attacker nested.
TEST_F(HfDirectoryTest, ValuesNestedAMillionDeepAreRefused) {
  const std::string deep = std::string(1'000'000, '[') + std::string(1'000'000, ']');
  for (const std::string key :
       {"hidden_size", "eos_token_id", "rope_theta", "attention_bias", "hidden_act"}) {
    std::string config = ConfigJsonOf(model_);
    const std::string taken = "\"" + key + "\"";
    if (const size_t at = config.find(taken); at != std::string::npos) config[at + 1] = '_';
    config.insert(1, taken + ":" + deep + ",");
    WriteFile(directory_ / "config.json", config);
    EXPECT_THAT(Error(absl::StatusCode::kInvalidArgument), HasSubstr("deeper than 64 levels"))
        << key;
  }
}

}  // namespace
}  // namespace tailor
