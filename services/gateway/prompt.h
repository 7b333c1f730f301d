// From a transcript to token ids: only new text is ever tokenized. Pure functions.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/text/chat_template.h"
#include "common/text/tokenizer.h"
#include "services/gateway/session_directory.h"

namespace tailor {

struct Prompt {
  std::vector<TokenId> history;       // all ids, the new ones last
  std::vector<SessionEntry> entries;  // to append when the turn ends: (system,) user
};

// The ids of a transcript's next turn. Documents since the last answer are read with the message:
// they stand before it in the user's turn. Errors: InvalidArgument (not UTF-8).
absl::StatusOr<Prompt> BuildPrompt(const SessionRecord& session,
                                   const std::vector<SessionEntry>& transcript,
                                   const std::string& message, const ChatTemplate& chat);

// How a document stands in the user's turn, before the message.
std::string DocumentText(const std::string& name, const std::string& text);

}  // namespace tailor
