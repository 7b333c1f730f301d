// Text of any bytes, with each pre-tokenizer: refused, or ids that give the text back.

#include "common/text/tokenizer.h"

#include "common/status.h"
#include "common/text/detokenizer.h"
#include "common/text/utf8.h"
#include "tests/common/model_file/small_llama.h"
#include "tests/fuzz/fuzz_target.h"

namespace tailor {
namespace {

std::vector<std::unique_ptr<Tokenizer>> MakeTokenizers() {
  std::vector<std::unique_ptr<Tokenizer>> tokenizers;
  for (const char* name : {"gpt-2", "smollm", "llama-bpe"}) {
    TokenizerSpec spec = MakeSmallLlama().tokenizer;
    spec.pre_tokenizer = name;
    auto tokenizer = Tokenizer::Create(spec);
    TS_CHECK(tokenizer.ok());
    tokenizers.push_back(*std::move(tokenizer));
  }
  return tokenizers;
}

void CheckText(const Tokenizer& tokenizer, std::string_view text) {
  const auto ids = tokenizer.Encode(text);
  FUZZ_EXPECT(ids.ok() == !FirstInvalidUtf8(text).has_value());
  if (!ids.ok()) return;
  Detokenizer detokenizer(tokenizer, ControlTokens::kShown);
  std::string back;
  for (const TokenId id : *ids) {
    FUZZ_EXPECT(!tokenizer.IsControl(id));
    const std::string part = detokenizer.Push(id);
    FUZZ_EXPECT(!FirstInvalidUtf8(part).has_value());
    back += part;
  }
  back += detokenizer.Flush();
  FUZZ_EXPECT(back == text);  // the vocabulary has every byte
}

}  // namespace

std::vector<std::string> Seeds() {
  return {"It's the THE'LL they'd've 12345 don't\r\n\r\n  x\t\ty   z",
          "<|im_end|><tool><|im_start|>system\n<tool",
          "naïve 速度 ٣٤٥ \u3000\u00a0\u2028 🙂👩🏽‍🚀 e\u0301",
          "for (int i = 0; i < n; ++i) {\n\treturn a[i] * 3.14e-5f;\n}\n",
          std::string("\0\x01\x7f\xc3\xa9\xe2\x82\xff\xed\xa0\x80", 11)};
}

}  // namespace tailor

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tailor;
  static const auto tokenizers = MakeTokenizers();
  for (const auto& tokenizer : tokenizers) CheckText(*tokenizer, AsText(data, size));
  return 0;
}
