#include "common/text/chat_template.h"

#include <algorithm>
#include <utility>

#include "common/status.h"
#include "common/text/chat_format.h"
#include "common/text/utf8.h"

namespace tailor {
namespace {

// What Python's str.strip (and so Jinja's trim) takes for white space.
bool IsSpace(char32_t c) {
  return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
         c == 0x205f || c == 0x3000;
}

// Ill-formed text is left as it is: encoding refuses it.
std::string_view Trim(std::string_view text) {
  size_t begin = text.size(), end = 0;
  for (size_t offset = 0; offset < text.size();) {
    const Utf8Unit unit = NextUtf8(text.substr(offset));
    if (unit.kind != Utf8Kind::kCharacter) return text;
    if (!IsSpace(DecodeUtf8(text.substr(offset, unit.length)))) {
      begin = std::min(begin, offset);
      end = offset + unit.length;
    }
    offset += unit.length;
  }
  return begin < end ? text.substr(begin, end - begin) : std::string_view();
}

std::string_view RoleName(Role role) {
  switch (role) {
    case Role::kSystem:
      return "system";
    case Role::kUser:
      return "user";
    case Role::kAssistant:
      return "assistant";
  }
  TS_CHECK(false);
}

absl::Status CheckOrder(std::span<const ChatMessage> messages) {
  const bool has_system = !messages.empty() && messages[0].role == Role::kSystem;
  for (size_t i = has_system ? 1 : 0; i < messages.size(); ++i) {
    const bool users_turn = (i % 2 == 0) != has_system;
    const Role want = users_turn ? Role::kUser : Role::kAssistant;
    if (messages[i].role == want) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("message ", i, " is the ", std::string(RoleName(messages[i].role)),
                     "'s, must be the ", std::string(RoleName(want)), "'s"));
  }
  if (!messages.empty() && messages.back().role == Role::kUser) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("conversation of ", messages.size(), " messages does not end with the user's"));
}

}  // namespace

// Collects text between control tokens and encodes each stretch as one, as the reference does.
class ChatTemplate::Writer {
 public:
  explicit Writer(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  void Text(std::string_view text) { text_ += text; }
  void Control(TokenId id) {
    EncodeText();
    ids_.push_back(id);
  }
  absl::StatusOr<std::vector<TokenId>> Finish() {
    EncodeText();
    if (!status_.ok()) return status_;
    return std::move(ids_);
  }

 private:
  void EncodeText() {
    const auto ids = tokenizer_.Encode(std::exchange(text_, {}));
    status_.Update(ids.status());
    if (ids.ok()) ids_.insert(ids_.end(), ids->begin(), ids->end());
  }

  const Tokenizer& tokenizer_;
  std::string text_;
  std::vector<TokenId> ids_;
  absl::Status status_;
};

absl::StatusOr<ChatTemplate> ChatTemplate::Create(const TokenizerSpec& spec,
                                                  const Tokenizer& tokenizer) {
  TS_ASSIGN_OR_RETURN(ChatFormat format, RecogniseChatFormat(spec, tokenizer));
  ChatTemplate result(std::move(format), tokenizer);
  TS_ASSIGN_OR_RETURN(result.after_assistant_, tokenizer.Encode(result.format_.after));
  return result;
}

void ChatTemplate::Header(std::string_view role, Writer& out) const {
  out.Control(format_.open);
  out.Text(role);
  if (format_.header_end) out.Control(*format_.header_end);
  out.Text(format_.header_text);
}

void ChatTemplate::Message(std::string_view role, std::string_view content, Writer& out) const {
  Header(role, out);
  out.Text(format_.trims_content ? Trim(content) : content);
  out.Control(format_.end);
  out.Text(format_.after);
}

void ChatTemplate::Opening(std::optional<std::string_view> system, Writer& out) const {
  if (format_.bos) out.Control(*format_.bos);
  if (!system && format_.default_system) system = *format_.default_system;
  if (!system) return;
  // The prefix is not trimmed, even when the text after it is empty.
  Header("system", out);
  out.Text(format_.system_prefix);
  out.Text(format_.trims_content ? Trim(*system) : *system);
  out.Control(format_.end);
  out.Text(format_.after);
}

absl::StatusOr<std::vector<TokenId>> ChatTemplate::OpenConversation(
    std::optional<std::string_view> system) const {
  Writer out(*tokenizer_);
  Opening(system, out);
  return out.Finish();
}

absl::StatusOr<std::vector<TokenId>> ChatTemplate::UserTurn(std::string_view text) const {
  Writer out(*tokenizer_);
  Message("user", text, out);
  Header("assistant", out);
  return out.Finish();
}

std::vector<TokenId> ChatTemplate::CloseReply(std::span<const TokenId> reply) const {
  std::vector<TokenId> ids;
  if (reply.empty() || reply.back() != format_.end) ids.push_back(format_.end);
  ids.insert(ids.end(), after_assistant_.begin(), after_assistant_.end());
  return ids;
}

absl::StatusOr<std::vector<TokenId>> ChatTemplate::EncodeConversation(
    std::span<const ChatMessage> messages) const {
  TS_RETURN_IF_ERROR(CheckOrder(messages));
  Writer out(*tokenizer_);
  const bool has_system = messages[0].role == Role::kSystem;
  Opening(has_system ? std::optional<std::string_view>(messages[0].content) : std::nullopt, out);
  for (const ChatMessage& message : messages.subspan(has_system ? 1 : 0)) {
    Message(RoleName(message.role), message.content, out);
  }
  Header("assistant", out);
  return out.Finish();
}

}  // namespace tailor
