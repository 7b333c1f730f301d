// Which chat format a Jinja template is, found by what it says; nothing of it is run.
#pragma once

#include "absl/status/statusor.h"
#include "common/text/chat_template.h"

namespace tailor {

// Errors: Unimplemented naming the supported formats.
absl::StatusOr<ChatFormat> RecogniseChatFormat(const TokenizerSpec& spec,
                                               const Tokenizer& tokenizer);

}  // namespace tailor
