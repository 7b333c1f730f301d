#include "common/text/pre_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "common/text/utf8.h"

namespace tailor {
namespace {

using Pieces = std::vector<std::string>;

Pieces Split(const std::string& name, std::string_view text) {
  const auto pre = PreTokenizer::Create(name);
  EXPECT_TRUE(pre.ok()) << pre.status();
  Pieces pieces;
  const auto status = pre->Split(text, [&](std::string_view piece) { pieces.emplace_back(piece); });
  EXPECT_TRUE(status.ok()) << status;
  return pieces;
}

TEST(PreTokenizer, Gpt2CutsWordsNumbersMarksAndBlanks) {
  EXPECT_EQ(Split("gpt-2", "It's 12345, isn't  it?\n\n x"),
            (Pieces{"It", "'s", " 12345", ",", " isn", "'t", " ", " it", "?", "\n\n", " x"}));
  EXPECT_EQ(Split("gpt-2", "IT'S"), (Pieces{"IT", "'", "S"})) << "contractions are lower case";
}

TEST(PreTokenizer, SmollmCutsEveryDigitFirst) {
  EXPECT_EQ(Split("smollm", "a 12²٣ b"), (Pieces{"a", " ", "1", "2", "²", "٣", " b"}));
}

TEST(PreTokenizer, Llama3CutsByThreeDigitsAndKeepsLineEndsWithMarks) {
  EXPECT_EQ(Split("llama-bpe", "IT'S 12345 (x);\n\n  y"),
            (Pieces{"IT", "'S", " ", "123", "45", " (", "x", ");\n\n", " ", " y"}));
  EXPECT_EQ(Split("llama-bpe", "  \n\n  z"), (Pieces{"  \n\n", " ", " z"}));
}

TEST(PreTokenizer, Qwen2CutsEveryDigitAndKeepsABlankOutOfNumbers) {
  EXPECT_EQ(Split("qwen2", "IT'S 12345 (x);\n\n  y"),
            (Pieces{"IT", "'S", " ", "1", "2", "3", "4", "5", " (", "x", ");\n\n", " ", " y"}));
}

TEST(PreTokenizer, AnUnknownNameIsRefusedWithTheKnownOnes) {
  const auto pre = PreTokenizer::Create("tekken");
  EXPECT_EQ(pre.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(pre.status().message()),
              testing::AllOf(testing::HasSubstr("\"tekken\""), testing::HasSubstr("llama-bpe")));
}

// Letters, digits, blanks, line ends, marks, of one to four bytes, in runs.
std::string RandomText(std::mt19937_64& random) {
  static const std::vector<std::string> kParts = {
      "a",  "Z",  "'s",     "'LL",    "é", "中",     "9",    "٣",      "½",      " ", "\t",
      "\n", "\r", "\u00a0", "\u3000", "!", "\u0301", "🙂", "\u180e", "\u200b", "𝟘", "\x01"};
  std::string text;
  for (uint64_t parts = random() % 30; parts > 0; --parts) {
    const std::string& part = kParts[random() % kParts.size()];
    for (uint64_t run = 1 + random() % 3; run > 0; --run) text += part;
  }
  return text;
}

TEST(PreTokenizer, PiecesAreWholeCharactersAndLeaveNothingOut) {
  for (const char* name : {"gpt-2", "smollm", "llama-bpe", "qwen2"}) {
    for (uint64_t seed = 1; seed <= 2000; ++seed) {
      std::mt19937_64 random(seed);
      const std::string text = RandomText(random);
      std::string joined;
      for (const std::string& piece : Split(name, text)) {
        ASSERT_FALSE(piece.empty()) << name << ", seed " << seed;
        ASSERT_EQ(FirstInvalidUtf8(piece), std::nullopt) << name << ", seed " << seed;
        joined += piece;
      }
      ASSERT_EQ(joined, text) << name << ", seed " << seed;
    }
  }
}

// Quadratic backtracking would take minutes here.
TEST(PreTokenizer, LongRunsOfAnyClassAreCut) {
  for (const char* name : {"gpt-2", "smollm", "llama-bpe", "qwen2"}) {
    for (const char* unit :
         {"a", "中", " ", "\n", " \n", "\r\n", "=", "🙂", "\u3000", "1", "'", "a'"}) {
      std::string text;
      while (text.size() < (1 << 20)) text += unit;
      text += "x";
      size_t bytes = 0;
      for (const std::string& piece : Split(name, text)) bytes += piece.size();
      EXPECT_EQ(bytes, text.size()) << name << " \"" << unit << '"';
    }
  }
}

}  // namespace
}  // namespace tailor
