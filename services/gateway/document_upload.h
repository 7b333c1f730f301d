// Puts a streamed document together: limits, order, UTF-8.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "tailor/v1/chat.pb.h"

namespace tailor {

inline constexpr int64_t kMaxChunkBytes = 1 << 20;
inline constexpr int64_t kMaxDocumentBytes = int64_t{512} << 20;

class DocumentUpload {
 public:
  // Takes the next message. Errors: InvalidArgument (order, sizes), ResourceExhausted (too large).
  absl::Status Take(const v1::AttachDocumentRequest& part);
  // The whole text. Errors: InvalidArgument (nothing came, not as much as was announced, or not
  // UTF-8).
  absl::StatusOr<std::string> Finish();
  const v1::AttachDocumentHeader& header() const { return header_; }

 private:
  bool has_header_ = false;
  v1::AttachDocumentHeader header_;
  std::string text_;
};

}  // namespace tailor
