#include "common/text/detokenizer.h"

#include <gtest/gtest.h>

#include <random>

#include "common/text/utf8.h"
#include "tests/common/text/byte_spec.h"
#include "tests/common/text/golden.h"

namespace tailor {
namespace {

std::vector<TokenId> BytesFromHex(const std::string& hex) {
  std::vector<TokenId> ids;
  for (size_t i = 0; i < hex.size(); i += 2)
    ids.push_back(std::stoi(hex.substr(i, 2), nullptr, 16));
  return ids;
}

std::string Replaced(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const Utf8Unit unit = NextUtf8(text);
    out += unit.kind == Utf8Kind::kCharacter ? std::string(text.substr(0, unit.length)) : "\ufffd";
    text.remove_prefix(unit.length);
  }
  return out;
}

class DetokenizerTest : public testing::Test {
 protected:
  void Use(const TokenizerSpec& spec) {
    auto tokenizer = Tokenizer::Create(spec);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
  }
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(DetokenizerTest, ByteByByteEqualsPythonsReplace) {
  Use(ByteSpec());
  const auto golden = ReadGoldenJson("replace.json");
  Detokenizer detokenizer(*tokenizer_);  // one for all replies: Flush starts anew
  for (const auto& entry : golden["cases"]) {
    std::string text;
    for (const TokenId id : BytesFromHex(entry[0])) {
      const std::string part = detokenizer.Push(id);
      EXPECT_EQ(FirstInvalidUtf8(part), std::nullopt) << entry[0] << ": half a character came out";
      text += part;
    }
    EXPECT_EQ(text + detokenizer.Flush(), entry[1].get<std::string>()) << entry[0];
  }
}

// Tokens that begin and end within characters, in any order.
TEST_F(DetokenizerTest, RandomTokensGiveTheReplacedBytesInWholeCharacters) {
  Use(SmallSpec("gpt-2"));
  for (uint64_t seed = 1; seed <= 500; ++seed) {
    std::mt19937_64 random(seed);
    Detokenizer detokenizer(*tokenizer_);
    std::string bytes, text;
    for (int i = 0; i < 40; ++i) {
      const auto id = static_cast<TokenId>(random() % (random() % 2 == 0 ? 260 : 1500));
      const std::string part = detokenizer.Push(id);
      ASSERT_EQ(FirstInvalidUtf8(part), std::nullopt) << "seed " << seed;
      text += part;
      if (!tokenizer_->IsControl(id)) bytes += tokenizer_->TokenBytes(id);
    }
    ASSERT_EQ(text + detokenizer.Flush(), Replaced(bytes)) << "seed " << seed;
  }
}

TEST_F(DetokenizerTest, EveryGoldenTextComesBackFromItsIds) {
  Use(SmallSpec("llama-bpe"));
  const auto texts = ReadGoldenJson("texts.json")["texts"],
             ids = ReadGoldenJson("llama-bpe.ids.json")["ids"];
  Detokenizer detokenizer(*tokenizer_);
  for (size_t i = 0; i < texts.size(); ++i) {
    std::string text;
    for (const TokenId id : ids[i].get<std::vector<TokenId>>()) text += detokenizer.Push(id);
    EXPECT_EQ(text + detokenizer.Flush(), texts[i].get<std::string>());
  }
}

TEST_F(DetokenizerTest, ACharacterComesOutWithItsLastByteAndBrokenOnesAtOnce) {
  Use(ByteSpec());
  Detokenizer detokenizer(*tokenizer_);
  EXPECT_EQ(detokenizer.Push(0xf0), "");
  EXPECT_EQ(detokenizer.Push(0x9f), "");
  EXPECT_EQ(detokenizer.Push(0x99), "");
  EXPECT_EQ(detokenizer.Push(0x82), "🙂");
  EXPECT_EQ(detokenizer.Push(0xe2), "");
  EXPECT_EQ(detokenizer.Push('x'), "\ufffdx");
  EXPECT_EQ(detokenizer.Push(0xff), "\ufffd");
  EXPECT_EQ(detokenizer.Push(0xc3), "");
  EXPECT_EQ(detokenizer.Flush(), "\ufffd");
  EXPECT_EQ(detokenizer.Flush(), "");
}

TEST_F(DetokenizerTest, ControlTokensAreHiddenUnlessAskedFor) {
  TokenizerSpec spec = ByteSpec();
  const TokenId end = AddToken(spec, "<|im_end|>", TokenKind::kControl);
  Use(spec);
  Detokenizer hidden(*tokenizer_), shown(*tokenizer_, ControlTokens::kShown);
  EXPECT_EQ(hidden.Push(0xc3), "");
  EXPECT_EQ(hidden.Push(end), "");
  EXPECT_EQ(hidden.Push(0xa9), "é") << "a hidden token does not break the character around it";
  EXPECT_EQ(shown.Push(0xc3), "");
  EXPECT_EQ(shown.Push(end), "\ufffd<|im_end|>");
  EXPECT_EQ(hidden.Push(-1) + hidden.Push(9999) + shown.Push(9999), "");
}

}  // namespace
}  // namespace tailor
