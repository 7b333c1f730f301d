#include "worker/engine_options.h"

#include "common/status.h"
#include "worker/model/decode_row.h"

namespace tailor {

absl::Status EngineOptions::Validate() const {
  if (prefill_chunk_tokens < 1 || max_sequences < 1) {
    return absl::InvalidArgumentError(absl::StrCat("prefill_chunk_tokens is ", prefill_chunk_tokens,
                                                   " and max_sequences ", max_sequences,
                                                   ", limit 1.. for both"));
  }
  if (max_decode_rows < 1 || max_decode_rows > kMaxDecodeRows) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_decode_rows is ", max_decode_rows, ", limit 1..", kMaxDecodeRows));
  }
  return absl::OkStatus();
}

}  // namespace tailor
