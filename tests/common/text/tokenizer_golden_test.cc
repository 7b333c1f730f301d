// Ids against Hugging Face's tokenizers, for every pre-tokenizer and for two real models.

#include <gtest/gtest.h>

#include <cstdlib>

#include "common/model_file/model_file.h"
#include "common/text/tokenizer.h"
#include "tests/common/text/golden.h"

namespace tailor {
namespace {

void ExpectGoldenIds(const TokenizerSpec& spec, const std::string& file) {
  const auto tokenizer = Tokenizer::Create(spec);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto texts = ReadGoldenJson("texts.json")["texts"];
  const auto golden = ReadGoldenJson(file)["ids"];
  ASSERT_GE(texts.size(), 1500u);
  ASSERT_EQ(texts.size(), golden.size());
  int wrong = 0;
  for (size_t i = 0; i < texts.size(); ++i) {
    const auto ids = (*tokenizer)->Encode(texts[i].get_ref<const std::string&>());
    ASSERT_TRUE(ids.ok()) << texts[i] << ": " << ids.status();
    const auto want = golden[i].get<std::vector<TokenId>>();
    if (*ids == want) continue;
    ++wrong;
    if (wrong <= 10) {
      ADD_FAILURE() << texts[i] << " gives " << nlohmann::json(*ids) << ", reference " << golden[i];
    }
  }
  EXPECT_EQ(wrong, 0) << "of " << texts.size() << " texts";
}

TEST(TokenizerGolden, Gpt2EqualsTheReference) {
  ExpectGoldenIds(SmallSpec("gpt-2"), "gpt-2.ids.json");
}

TEST(TokenizerGolden, SmollmEqualsTheReference) {
  TokenizerSpec spec = SmallSpec("gpt-2");
  spec.pre_tokenizer = "smollm";
  ExpectGoldenIds(spec, "smollm.ids.json");
}

TEST(TokenizerGolden, Llama3EqualsTheReference) {
  const TokenizerSpec spec = SmallSpec("llama-bpe");
  EXPECT_TRUE(spec.ignore_merges);
  EXPECT_TRUE(spec.add_bos);
  ExpectGoldenIds(spec, "llama-bpe.ids.json");
}

TEST(TokenizerGolden, Qwen2EqualsTheReference) {
  TokenizerSpec spec = SmallSpec("gpt-2");
  spec.pre_tokenizer = "qwen2";
  ExpectGoldenIds(spec, "qwen2.ids.json");
}

void ExpectModelsGoldenIds(const char* variable, const std::string& file) {
  const char* path = std::getenv(variable);
  if (path == nullptr) GTEST_SKIP() << variable << " is not set";
  const auto model = ModelFile::Open(path);
  ASSERT_TRUE(model.ok()) << model.status();
  ExpectGoldenIds((*model)->tokenizer(), file);
}

TEST(TokenizerGolden, TheDefaultModelEqualsTheReference) {
  ExpectModelsGoldenIds("TAILOR_TEST_MODEL", "smollm2-model.ids.json");
}

TEST(TokenizerGolden, TheQwenModelEqualsTheReference) {
  ExpectModelsGoldenIds("TAILOR_TEST_QWEN_MODEL", "qwen2.5-model.ids.json");
}

}  // namespace
}  // namespace tailor
