#include "common/fingerprint.h"

#include <gtest/gtest.h>

namespace tailor {
namespace {

TEST(FingerprintTest, OfThreeBytesIsThePublishedSha256) {
  const char abc[] = {'a', 'b', 'c'};
  EXPECT_EQ(Fingerprinter().AddBytes(std::as_bytes(std::span(abc))).Finish().ToHex(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(FingerprintTest, FieldsDoNotRunIntoEachOther) {
  EXPECT_NE(Fingerprinter().AddString("ab").AddString("c").Finish(),
            Fingerprinter().AddString("a").AddString("bc").Finish());
}

TEST(FingerprintTest, HexRoundTripsAndRefusesOtherText) {
  const Fingerprint f = Fingerprinter().AddInt(7).Finish();
  ASSERT_TRUE(Fingerprint::FromHex(f.ToHex()).ok());
  EXPECT_EQ(*Fingerprint::FromHex(f.ToHex()), f);
  EXPECT_FALSE(Fingerprint::FromHex("12").ok());
  EXPECT_FALSE(Fingerprint::FromHex(std::string(64, 'G')).ok());
}

}  // namespace
}  // namespace tailor
