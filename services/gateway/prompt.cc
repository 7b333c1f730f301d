#include "services/gateway/prompt.h"

#include <iterator>
#include <optional>

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace tailor {
namespace {

void Append(const std::vector<TokenId>& ids, std::vector<TokenId>* out) {
  out->insert(out->end(), ids.begin(), ids.end());
}

// The documents that no answer has read yet, then the message.
std::string UserText(const std::vector<SessionEntry>& transcript, const std::string& message) {
  auto unread = transcript.end();
  while (unread != transcript.begin() && std::prev(unread)->role == EntryRole::kDocument) --unread;
  std::string text;
  for (; unread != transcript.end(); ++unread) {
    text += DocumentText(unread->name, unread->text);
  }
  return text + message;
}

// What closes the last answer when the next turn follows; nothing before the first answer.
std::vector<TokenId> CloseAnswer(const std::vector<SessionEntry>& transcript,
                                 const ChatTemplate& chat) {
  for (auto it = transcript.rbegin(); it != transcript.rend(); ++it) {
    if (it->role == EntryRole::kAssistant) return chat.CloseReply(it->tokens);
    if (it->role != EntryRole::kDocument) break;
  }
  return {};
}

}  // namespace

std::string DocumentText(const std::string& name, const std::string& text) {
  return absl::StrCat("Document: ", name, "\n\n", text, "\n\n");
}

absl::StatusOr<Prompt> BuildPrompt(const SessionRecord& session,
                                   const std::vector<SessionEntry>& transcript,
                                   const std::string& message, const ChatTemplate& chat) {
  Prompt prompt;
  bool opened = false;
  for (const SessionEntry& entry : transcript) {
    Append(entry.tokens, &prompt.history);
    opened = opened || entry.role != EntryRole::kDocument;
  }
  if (!opened) {
    const auto system =
        session.system.empty() ? std::nullopt : std::optional<std::string>(session.system);
    TS_ASSIGN_OR_RETURN(std::vector<TokenId> ids, chat.OpenConversation(system));
    Append(ids, &prompt.history);
    const auto count = static_cast<int64_t>(ids.size());
    prompt.entries.push_back({.role = EntryRole::kSystem,
                              .name = "",
                              .text = session.system,
                              .tokens = std::move(ids),
                              .token_count = count});
  }
  SessionEntry user = {.role = EntryRole::kUser,
                       .name = "",
                       .text = message,
                       .tokens = CloseAnswer(transcript, chat),
                       .token_count = 0};
  TS_ASSIGN_OR_RETURN(const std::vector<TokenId> ids, chat.UserTurn(UserText(transcript, message)));
  Append(ids, &user.tokens);
  user.token_count = static_cast<int64_t>(user.tokens.size());
  Append(user.tokens, &prompt.history);
  prompt.entries.push_back(std::move(user));
  return prompt;
}

}  // namespace tailor
