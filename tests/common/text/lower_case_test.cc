#include "common/text/lower_case.h"

#include <gtest/gtest.h>

namespace tailor {
namespace {

TEST(LowerCaseTest, LettersOfManyScriptsAreLowered) {
  EXPECT_EQ(LowerCase("AbZ09 [~]"), "abz09 [~]");
  EXPECT_EQ(LowerCase("ÀÖØÞ ×"), "àöøþ ×") << "the sign between the letters stays";
  EXPECT_EQ(LowerCase("ĀĂ ĹĽ ŸŹ"), "āă ĺľ ÿź");
  EXPECT_EQ(LowerCase("ΑΩ ЀЏ АЯ"), "αω ѐџ ая");
  EXPECT_EQ(LowerCase("ẞ K"), "ß k") << "capital sharp s, Kelvin sign";
  EXPECT_EQ(LowerCase("𐐀𐐧"), "𐐨𐑏");
}

TEST(LowerCaseTest, NeighboursOfARangeStayAsTheyAre) {
  EXPECT_EQ(LowerCase("@[`{"), "@[`{");
  EXPECT_EQ(LowerCase("āăß"), "āăß") << "lower case between upper case";
}

TEST(LowerCaseTest, TheDottedCapitalIBecomesTwoCharacters) {
  EXPECT_EQ(LowerCase("İ"), "i\xcc\x87");
}

TEST(LowerCaseTest, BytesThatAreNoCharacterStay) {
  EXPECT_EQ(LowerCase("A\xff\xc3Z\xe2\x82"), "a\xff\xc3z\xe2\x82");
}

}  // namespace
}  // namespace tailor
