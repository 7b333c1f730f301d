#include "services/gateway/document_upload.h"

#include "common/status.h"
#include "common/text/utf8.h"

namespace tailor {
namespace {

constexpr size_t kMaxNameBytes = 256;

absl::Status CheckHeader(const v1::AttachDocumentHeader& header) {
  if (header.name().empty() || header.name().size() > kMaxNameBytes) {
    return absl::InvalidArgumentError(absl::StrCat("document name has ", header.name().size(),
                                                   " bytes, limit 1..", kMaxNameBytes));
  }
  if (header.total_bytes() < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("total_bytes is ", header.total_bytes(), ", limit 0.."));
  }
  if (header.total_bytes() > kMaxDocumentBytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("document has ", header.total_bytes(), " bytes, limit ", kMaxDocumentBytes));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status DocumentUpload::Take(const v1::AttachDocumentRequest& part) {
  if (part.has_header()) {
    if (has_header_) return absl::InvalidArgumentError("upload has a second header");
    has_header_ = true;
    header_ = part.header();
    return CheckHeader(header_);
  }
  if (!has_header_) return absl::InvalidArgumentError("upload begins without a header");
  const auto bytes = static_cast<int64_t>(part.chunk().size());
  if (bytes > kMaxChunkBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("chunk has ", bytes, " bytes, limit ", kMaxChunkBytes));
  }
  const int64_t limit = header_.total_bytes() > 0 ? header_.total_bytes() : kMaxDocumentBytes;
  if (static_cast<int64_t>(text_.size()) + bytes > limit) {
    return absl::ResourceExhaustedError(
        absl::StrCat("document has more than the ", limit, " bytes ",
                     header_.total_bytes() > 0 ? "announced" : "allowed"));
  }
  text_ += part.chunk();
  return absl::OkStatus();
}

absl::StatusOr<std::string> DocumentUpload::Finish() {
  if (!has_header_) return absl::InvalidArgumentError("upload has no header");
  if (text_.empty()) return absl::InvalidArgumentError("document is empty");
  if (header_.total_bytes() > 0 && static_cast<int64_t>(text_.size()) != header_.total_bytes()) {
    return absl::InvalidArgumentError(absl::StrCat("document has ", text_.size(), " bytes, ",
                                                   header_.total_bytes(), " were announced"));
  }
  if (const auto offset = FirstInvalidUtf8(text_)) {
    return absl::InvalidArgumentError(
        absl::StrCat("document of ", text_.size(), " bytes is not UTF-8 at byte ", *offset));
  }
  return std::move(text_);
}

}  // namespace tailor
