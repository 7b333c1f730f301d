#include "common/text/byte_alphabet.h"

#include <gtest/gtest.h>

#include <set>

#include "tests/common/text/byte_spec.h"

namespace tailor {
namespace {

TEST(ByteAlphabet, HasTheCodePointsOfGpt2) {
  const auto alphabet = ByteAlphabet();
  EXPECT_EQ(alphabet['!'], U'!');
  EXPECT_EQ(alphabet['~'], U'~');
  EXPECT_EQ(alphabet[0x00], U'\u0100');
  EXPECT_EQ(alphabet['\t'], U'\u0109');
  EXPECT_EQ(alphabet['\n'], U'\u010a');
  EXPECT_EQ(alphabet[' '], U'\u0120');
  EXPECT_EQ(alphabet[0x7f], U'\u0121');
  EXPECT_EQ(alphabet[0xa0], U'\u0142');
  EXPECT_EQ(alphabet[0xa1], U'\u00a1');
  EXPECT_EQ(alphabet[0xad], U'\u0143');
  EXPECT_EQ(alphabet[0xff], U'\u00ff');
  EXPECT_EQ(std::set<char32_t>(alphabet.begin(), alphabet.end()).size(), 256u);
}

TEST(ByteDecoder, UndoesTheAlphabetForEveryByte) {
  const ByteDecoder decoder;
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all.push_back(static_cast<char>(byte));
  EXPECT_EQ(decoder.Decode(Symbols(all)), all);
  EXPECT_EQ(decoder.Decode(""), "");
}

TEST(ByteDecoder, RefusesCharactersThatStandForNoByte) {
  const ByteDecoder decoder;
  for (const char* text :
       {" ", "\n", "a b", "\u00ad", "\u0144", "\u4e2d", "\U0001f642", "\xff", "a\xc4"}) {
    EXPECT_EQ(decoder.Decode(text), std::nullopt) << text;
  }
}

}  // namespace
}  // namespace tailor
