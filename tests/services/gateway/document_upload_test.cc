#include "services/gateway/document_upload.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tailor {
namespace {

v1::AttachDocumentRequest Header(const std::string& name, int64_t total_bytes = 0) {
  v1::AttachDocumentRequest part;
  part.mutable_header()->set_session_id("s");
  part.mutable_header()->set_name(name);
  part.mutable_header()->set_total_bytes(total_bytes);
  return part;
}

v1::AttachDocumentRequest Chunk(const std::string& bytes) {
  v1::AttachDocumentRequest part;
  part.set_chunk(bytes);
  return part;
}

// The text, or the first error.
absl::StatusOr<std::string> Upload(const std::vector<v1::AttachDocumentRequest>& parts) {
  DocumentUpload upload;
  for (const auto& part : parts) {
    if (const absl::Status taken = upload.Take(part); !taken.ok()) return taken;
  }
  return upload.Finish();
}

void ExpectInvalid(const absl::StatusOr<std::string>& got, const std::string& message) {
  EXPECT_TRUE(absl::IsInvalidArgument(got.status())) << got.status();
  EXPECT_EQ(got.status().message(), message);
}

TEST(DocumentUploadTest, ChunksBecomeOneTextInOrder) {
  const auto text =
      Upload({Header("a.txt", 9), Chunk("one "), Chunk(""), Chunk("two"), Chunk("!!")});
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(*text, "one two!!");
}

TEST(DocumentUploadTest, AChunkMaySplitACharacter) {
  const std::string smile = "\xf0\x9f\x98\x80";
  for (size_t cut = 1; cut < smile.size(); ++cut) {
    const auto text =
        Upload({Header("a"), Chunk("x" + smile.substr(0, cut)), Chunk(smile.substr(cut))});
    ASSERT_TRUE(text.ok()) << text.status();
    EXPECT_EQ(*text, "x" + smile);
  }
}

TEST(DocumentUploadTest, TextThatIsNotUtf8IsRefusedWithItsByte) {
  ExpectInvalid(Upload({Header("a"), Chunk("abc"),
                        Chunk("d\xff"
                              "e")}),
                "document of 6 bytes is not UTF-8 at byte 4");
  ExpectInvalid(Upload({Header("a"), Chunk("ab\xc3")}),
                "document of 3 bytes is not UTF-8 at byte 2");
}

TEST(DocumentUploadTest, TheHeaderComesFirstAndOnce) {
  ExpectInvalid(Upload({Chunk("x")}), "upload begins without a header");
  ExpectInvalid(Upload({v1::AttachDocumentRequest()}), "upload begins without a header");
  ExpectInvalid(Upload({Header("a"), Header("a")}), "upload has a second header");
  ExpectInvalid(Upload({}), "upload has no header");
}

TEST(DocumentUploadTest, NamesAreNeitherEmptyNorLong) {
  ExpectInvalid(Upload({Header("")}), "document name has 0 bytes, limit 1..256");
  ExpectInvalid(Upload({Header(std::string(257, 'n'))}),
                "document name has 257 bytes, limit 1..256");
  EXPECT_TRUE(Upload({Header(std::string(256, 'n')), Chunk("x")}).ok());
}

TEST(DocumentUploadTest, AChunkOverTheLimitIsRefusedByNumber) {
  EXPECT_TRUE(Upload({Header("a"), Chunk(std::string(kMaxChunkBytes, 'x'))}).ok());
  ExpectInvalid(Upload({Header("a"), Chunk(std::string(kMaxChunkBytes + 1, 'x'))}),
                "chunk has 1048577 bytes, limit 1048576");
}

TEST(DocumentUploadTest, AnAnnouncedSizeOverTheLimitIsRefusedBeforeAnythingComes) {
  const absl::Status refused = DocumentUpload().Take(Header("a", kMaxDocumentBytes + 1));
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_EQ(refused.message(), "document has 536870913 bytes, limit 536870912");
  ExpectInvalid(Upload({Header("a", -1)}), "total_bytes is -1, limit 0..");
  EXPECT_TRUE(DocumentUpload().Take(Header("a", kMaxDocumentBytes)).ok());
}

TEST(DocumentUploadTest, MoreOrLessThanAnnouncedIsRefused) {
  const auto more = Upload({Header("a", 3), Chunk("abcd")});
  EXPECT_TRUE(absl::IsResourceExhausted(more.status())) << more.status();
  EXPECT_EQ(more.status().message(), "document has more than the 3 bytes announced");
  ExpectInvalid(Upload({Header("a", 3), Chunk("ab")}), "document has 2 bytes, 3 were announced");
  ExpectInvalid(Upload({Header("a"), Chunk("")}), "document is empty");
}

TEST(DocumentUploadTest, WithoutAnAnnouncementTheGeneralLimitHolds) {
  DocumentUpload upload;
  ASSERT_TRUE(upload.Take(Header("a")).ok());
  const v1::AttachDocumentRequest chunk = Chunk(std::string(kMaxChunkBytes, 'x'));
  for (int64_t taken = 0; taken < kMaxDocumentBytes; taken += kMaxChunkBytes) {
    ASSERT_TRUE(upload.Take(chunk).ok());
  }
  const absl::Status refused = upload.Take(Chunk("x"));
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_EQ(refused.message(), "document has more than the 536870912 bytes allowed");
}

}  // namespace
}  // namespace tailor
