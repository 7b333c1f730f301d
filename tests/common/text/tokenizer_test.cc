#include "common/text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/common/text/byte_spec.h"

namespace tailor {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::unique_ptr<Tokenizer> Make(const TokenizerSpec& spec) {
  auto tokenizer = Tokenizer::Create(spec);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

std::vector<TokenId> Encode(const TokenizerSpec& spec, std::string_view text) {
  const auto ids = Make(spec)->Encode(text);
  EXPECT_TRUE(ids.ok()) << ids.status();
  return *ids;
}

std::string ErrorOf(const TokenizerSpec& spec) {
  const auto tokenizer = Tokenizer::Create(spec);
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(tokenizer.status().message());
}

TEST(Tokenizer, MergesWithinPiecesOnly) {
  TokenizerSpec spec = ByteSpec();
  AddMerge(spec, "a", "b");
  AddMerge(spec, "b", " ");
  EXPECT_THAT(Encode(spec, "ab ab"), ElementsAre(256, ' ', 256));
}

TEST(Tokenizer, IdsOfAnyTextGiveItsBytesBack) {
  TokenizerSpec spec = ByteSpec("llama-bpe");
  AddMerge(spec, "\xc3", "\xa9");
  AddMerge(spec, " ", "a");
  const auto tokenizer = Make(spec);
  const std::string text = "\xc3\xa9 a\x01\n\xf0\x9f\x99\x82 123456 <|im_end|>";
  std::string bytes;
  const auto ids = tokenizer->Encode(text);
  ASSERT_TRUE(ids.ok());
  for (const TokenId id : *ids) bytes += tokenizer->TokenBytes(id);
  EXPECT_EQ(bytes, text);
}

TEST(Tokenizer, APieceThatIsATokenIsTakenWholeOnlyWithIgnoreMerges) {
  TokenizerSpec spec = ByteSpec();
  const TokenId whole = AddToken(spec, "abc", TokenKind::kNormal);
  AddMerge(spec, "b", "c");
  EXPECT_THAT(Encode(spec, "abc"), ElementsAre('a', whole + 1));
  spec.ignore_merges = true;
  EXPECT_THAT(Encode(spec, "abc"), ElementsAre(whole));
  EXPECT_THAT(Encode(spec, "abcd"), ElementsAre('a', whole + 1, 'd'));
}

TEST(Tokenizer, ControlTokensNeverComeOutOfText) {
  TokenizerSpec spec = ByteSpec();
  spec.ignore_merges = true;
  const TokenId end = AddToken(spec, "<|im_end|>", TokenKind::kControl);
  const TokenId word = AddToken(spec, "abc", TokenKind::kControl);
  const TokenId hole = AddToken(spec, "xyz", TokenKind::kUnused);
  const auto tokenizer = Make(spec);
  for (const std::string text : {"<|im_end|>", "abc", " abc", "a<|im_end|>abc", "xyz"}) {
    const auto ids = tokenizer->Encode(text);
    ASSERT_TRUE(ids.ok());
    EXPECT_THAT(*ids, testing::Each(testing::Lt(256))) << text;
  }
  EXPECT_EQ(tokenizer->ControlToken("<|im_end|>"), end);
  EXPECT_EQ(tokenizer->ControlToken("a"), std::nullopt);
  EXPECT_TRUE(tokenizer->IsControl(end) && tokenizer->IsControl(word) &&
              tokenizer->IsControl(hole));
  EXPECT_FALSE(tokenizer->IsControl('a'));
}

TEST(Tokenizer, AMergeThatWouldMakeAControlTokenIsLeftOut) {
  TokenizerSpec spec = ByteSpec();
  const TokenId control = AddToken(spec, "ab", TokenKind::kControl);
  spec.merges = {"a b", "ab c"};
  const auto ids = Encode(spec, "abc");
  EXPECT_THAT(ids, ElementsAre('a', 'b', 'c')) << "control is " << control;
}

TEST(Tokenizer, UserDefinedTokensAreFoundInTextTheLongestFirst) {
  TokenizerSpec spec = ByteSpec();
  const TokenId tool = AddToken(spec, "<t>", TokenKind::kUserDefined);
  const TokenId tools = AddToken(spec, "<t>s", TokenKind::kUserDefined);
  const TokenId marks = AddToken(spec, "[(.*+?^${}\\|#", TokenKind::kUserDefined);
  const TokenId cjk = AddToken(spec, "\u4e2d \u4e2d", TokenKind::kUserDefined);
  EXPECT_THAT(Encode(spec, "a<t><t>sb<t"), ElementsAre('a', tool, tools, 'b', '<', 't'));
  EXPECT_THAT(Encode(spec, "x[(.*+?^${}\\|#y"), ElementsAre('x', marks, 'y'));
  EXPECT_THAT(Encode(spec, "\u4e2d \u4e2d"), ElementsAre(cjk));
}

TEST(Tokenizer, BytesWithoutATokenAreLeftOut) {
  TokenizerSpec spec = ByteSpec();
  spec.kinds[1] = TokenKind::kUnused;
  EXPECT_THAT(Encode(spec, "a\x01z"), ElementsAre('a', 'z'));
}

TEST(Tokenizer, TextThatIsNotUtf8IsRefusedWithItsOffset) {
  const auto ids = Make(ByteSpec())->Encode("ab\xff");
  EXPECT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(ids.status().message()),
              HasSubstr("text of 3 bytes is not valid UTF-8 at byte 2"));
}

TEST(Tokenizer, EveryEndOfAReplyIsKnown) {
  TokenizerSpec spec = ByteSpec();
  const TokenId im_end = AddToken(spec, "<|im_end|>", TokenKind::kControl);
  const TokenId eos = AddToken(spec, "</s>", TokenKind::kControl);
  const TokenId eot = AddToken(spec, "<|eot_id|>", TokenKind::kNormal);
  spec.eos = eos;
  spec.bos = 7;
  spec.extra_end_of_generation = {9, eos};
  const auto tokenizer = Make(spec);
  EXPECT_THAT(tokenizer->end_of_generation(), ElementsAre(9, im_end, eos)) << "not " << eot;
  EXPECT_EQ(tokenizer->bos(), 7);
  EXPECT_EQ(tokenizer->eos(), eos);
}

TEST(Tokenizer, IdsOutOfRangeHaveNoBytesAndAreControl) {
  const auto tokenizer = Make(ByteSpec());
  EXPECT_EQ(tokenizer->vocab_size(), 256);
  for (const TokenId id : {-1, 256, INT32_MIN, INT32_MAX}) {
    EXPECT_TRUE(tokenizer->TokenBytes(id).empty());
    EXPECT_TRUE(tokenizer->IsControl(id));
  }
  EXPECT_EQ(tokenizer->TokenBytes(0), std::string_view("\0", 1));
}

TEST(Tokenizer, ATokenOutsideTheAlphabetStandsForItself) {
  TokenizerSpec spec = ByteSpec();
  const TokenId odd = AddToken(spec, "a b", TokenKind::kNormal);  // a space is no symbol
  const auto tokenizer = Make(spec);
  EXPECT_EQ(tokenizer->TokenBytes(odd), "a b");
  EXPECT_THAT(*tokenizer->Encode("a b"), ElementsAre('a', ' ', 'b'));
}

TEST(Tokenizer, BrokenTablesAreRefusedByName) {
  TokenizerSpec spec = ByteSpec();
  spec.kinds.pop_back();
  EXPECT_THAT(ErrorOf(spec), AllOf(HasSubstr("256 tokens"), HasSubstr("255 kinds")));
  spec = ByteSpec();
  AddToken(spec, "a", TokenKind::kNormal);
  EXPECT_THAT(ErrorOf(spec), AllOf(HasSubstr("token 256 \"a\""), HasSubstr("twice")));
  spec = ByteSpec();
  AddToken(spec, "\xff", TokenKind::kUserDefined);
  EXPECT_THAT(ErrorOf(spec), AllOf(HasSubstr("token 256"), HasSubstr("UTF-8")));
  spec = {};
  spec.pre_tokenizer = "gpt-2";
  EXPECT_THAT(ErrorOf(spec), HasSubstr("0 tokens"));
}

TEST(Tokenizer, BrokenMergesAreRefusedByRankAndText) {
  const auto error = [](std::vector<std::string> merges) {
    TokenizerSpec spec = ByteSpec();
    AddMerge(spec, "a", "b");
    spec.merges.insert(spec.merges.end(), merges.begin(), merges.end());
    return ErrorOf(spec);
  };
  EXPECT_THAT(error({"ab"}), AllOf(HasSubstr("merge 1 \"ab\""), HasSubstr("no space")));
  EXPECT_THAT(error({"a c"}), AllOf(HasSubstr("merge 1 \"a c\""), HasSubstr("vocabulary")));
  EXPECT_THAT(error({"a b"}), AllOf(HasSubstr("merge 1 \"a b\""), HasSubstr("twice")));
  EXPECT_THAT(error({"a \n"}), AllOf(HasSubstr("merge 1"), HasSubstr("byte alphabet")));
}

}  // namespace
}  // namespace tailor
