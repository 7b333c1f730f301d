// Conversations as token ids. A template is not interpreted: its format is recognised and written
// piece by piece, so that each turn's ids can be appended to a history that is never tokenized
// again.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/text/tokenizer.h"

namespace tailor {

enum class Role { kSystem, kUser, kAssistant };

struct ChatMessage {
  Role role = Role::kUser;
  std::string content;
};

// The parts of a message: <open> role <header_end> header_text content <end> after.
struct ChatFormat {
  std::optional<TokenId> bos = {};            // once, at the start
  TokenId open = 0;                           // <|im_start|>, <|start_header_id|>
  std::optional<TokenId> header_end = {};     // <|end_header_id|>
  std::string header_text = {};               // "\n", "\n\n"
  TokenId end = 0;                            // <|im_end|>, <|eot_id|>
  std::string after = {};                     // "\n", ""
  bool trims_content = false;                 // white space around a message goes
  std::string system_prefix = {};             // before every system text (Llama 3.1's dates)
  std::optional<std::string> default_system = {};  // when the conversation brings none
};

// Immutable after Create; thread-safe. Contents are text: what looks like a control token in them
// is not one. Errors of all encoding calls: those of Tokenizer::Encode.
class ChatTemplate {
 public:
  // Recognises the template text and the control tokens of ChatML and Llama 3; takes the default
  // system message from the template. `tokenizer` must outlive the object. Errors: Unimplemented
  // naming the supported formats.
  static absl::StatusOr<ChatTemplate> Create(const TokenizerSpec& spec, const Tokenizer& tokenizer);

  // bos and the system message: `system`, else the template's own default, else none.
  absl::StatusOr<std::vector<TokenId>> OpenConversation(
      std::optional<std::string_view> system) const;

  // A user message and the header that opens the reply.
  absl::StatusOr<std::vector<TokenId>> UserTurn(std::string_view text) const;

  // What follows a reply in the history before the next UserTurn: AssistantEnd() when the reply
  // does not end with it (it was cut short, or ended in another way), then AfterAssistant().
  std::vector<TokenId> CloseReply(std::span<const TokenId> reply) const;
  TokenId AssistantEnd() const { return format_.end; }
  const std::vector<TokenId>& AfterAssistant() const { return after_assistant_; }

  // A whole transcript at once: an optional system message, then user and assistant in turn, the
  // last one the user's; ends with the header that opens the reply. Errors: also InvalidArgument
  // for another order.
  absl::StatusOr<std::vector<TokenId>> EncodeConversation(
      std::span<const ChatMessage> messages) const;

  const ChatFormat& format() const { return format_; }

 private:
  class Writer;
  ChatTemplate(ChatFormat format, const Tokenizer& tokenizer)
      : format_(std::move(format)), tokenizer_(&tokenizer) {}
  void Header(std::string_view role, Writer& out) const;
  void Message(std::string_view role, std::string_view content, Writer& out) const;
  void Opening(std::optional<std::string_view> system, Writer& out) const;

  ChatFormat format_;
  const Tokenizer* tokenizer_;
  std::vector<TokenId> after_assistant_;
};

}  // namespace tailor
