#include "common/text/utf8.h"

#include <gtest/gtest.h>

#include "tests/common/text/golden.h"

namespace tailor {
namespace {

std::string Replaced(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const Utf8Unit unit = NextUtf8(text);
    if (unit.kind == Utf8Kind::kCharacter) {
      out += text.substr(0, unit.length);
    } else {
      out += "\xef\xbf\xbd";
    }
    text.remove_prefix(unit.length);
  }
  return out;
}

std::string FromHex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2) {
    bytes.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

TEST(Utf8, EveryScalarValueSurvivesWritingAndReading) {
  for (char32_t c = 0; c <= 0x10ffff; ++c) {
    if (c >= 0xd800 && c < 0xe000) continue;
    std::string bytes;
    AppendUtf8(c, bytes);
    const Utf8Unit unit = NextUtf8(bytes + "x");
    ASSERT_EQ(unit.kind, Utf8Kind::kCharacter) << std::hex << static_cast<uint32_t>(c);
    ASSERT_EQ(unit.length, bytes.size());
    ASSERT_EQ(DecodeUtf8(bytes), c);
  }
}

TEST(Utf8, EveryProperPrefixOfACharacterIsIncomplete) {
  for (const char32_t c :
       {U'\u0080', U'\u07ff', U'\u0800', U'\ud7ff', U'\uffff', U'\U00010000', U'\U0010ffff'}) {
    std::string bytes;
    AppendUtf8(c, bytes);
    for (size_t length = 1; length < bytes.size(); ++length) {
      const Utf8Unit unit = NextUtf8(std::string_view(bytes).substr(0, length));
      EXPECT_EQ(unit.kind, Utf8Kind::kIncomplete);
      EXPECT_EQ(unit.length, length);
      EXPECT_EQ(NextUtf8(bytes.substr(0, length) + "x").kind, Utf8Kind::kInvalid);
    }
  }
}

TEST(Utf8, SurrogatesOverlongFormsAndLargeValuesAreInvalid) {
  for (const std::string_view bytes :
       {"\xed\xa0\x80", "\xed\xbf\xbf", "\xc0\x80", "\xc1\xbf", "\xe0\x80\x80", "\xe0\x9f\xbf",
        "\xf0\x80\x80\x80", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff"}) {
    EXPECT_EQ(NextUtf8(bytes).kind, Utf8Kind::kInvalid);
    EXPECT_EQ(NextUtf8(bytes).length, 1u);
  }
}

TEST(Utf8, OneReplacementStandsForWhatPythonReplacesByOne) {
  const auto golden = ReadGoldenJson("replace.json");
  ASSERT_GE(golden["cases"].size(), 1000u);
  for (const auto& entry : golden["cases"]) {
    const auto hex = entry[0].get<std::string>();
    EXPECT_EQ(Replaced(FromHex(hex)), entry[1].get<std::string>()) << hex;
  }
}

TEST(Utf8, TheFirstInvalidByteIsFound) {
  EXPECT_EQ(FirstInvalidUtf8(""), std::nullopt);
  EXPECT_EQ(FirstInvalidUtf8("a\xc3\xa9\xf0\x9f\x99\x82"), std::nullopt);
  EXPECT_EQ(FirstInvalidUtf8("a\xc3\xa9\xff"), 3u);
  EXPECT_EQ(FirstInvalidUtf8("ab\xe2\x82"), 2u) << "an unfinished character is not valid either";
}

}  // namespace
}  // namespace tailor
