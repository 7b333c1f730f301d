#include "common/text/chat_format.h"

#include "common/status.h"

namespace tailor {
namespace {

bool Contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

char Unescaped(char c) {
  if (c == 'n') return '\n';
  if (c == 't') return '\t';
  if (c == 'r') return '\r';
  return c;
}

// The value of the Jinja string literal whose first character is at `begin`; nullopt when it does
// not end.
std::optional<std::string> Literal(std::string_view jinja, size_t begin) {
  const char quote = jinja[begin - 1];
  std::string value;
  for (size_t i = begin; i < jinja.size(); ++i) {
    if (jinja[i] == quote) return value;
    const bool escaped = jinja[i] == '\\' && i + 1 < jinja.size();
    value += escaped ? Unescaped(jinja[++i]) : jinja[i];
  }
  return std::nullopt;
}

// A literal that holds a whole system message is the default: '<|im_start|>system\nYou are
// ...<|im_end|>\n'.
std::optional<std::string> ChatMlDefaultSystem(std::string_view jinja) {
  constexpr std::string_view kOpen = "<|im_start|>system", kClose = "<|im_end|>";
  for (size_t at = jinja.find(kOpen); at != std::string_view::npos;
       at = jinja.find(kOpen, at + 1)) {
    if (at == 0 || (jinja[at - 1] != '\'' && jinja[at - 1] != '"')) continue;
    const auto literal = Literal(jinja, at);
    if (!literal || !literal->starts_with(std::string(kOpen) + "\n")) continue;
    const size_t begin = kOpen.size() + 1, end = literal->find(kClose);
    if (end != std::string::npos) return literal->substr(begin, end - begin);
  }
  return std::nullopt;
}

std::optional<ChatFormat> ChatMl(const TokenizerSpec& spec, const Tokenizer& tokenizer) {
  const auto open = tokenizer.ControlToken("<|im_start|>"),
             end = tokenizer.ControlToken("<|im_end|>");
  if (!Contains(spec.chat_template, "<|im_start|>") || !open || !end) return std::nullopt;
  ChatFormat format{.open = *open, .header_text = "\n", .end = *end, .after = "\n"};
  format.trims_content =
      Contains(spec.chat_template, "| trim") || Contains(spec.chat_template, "|trim");
  format.default_system = ChatMlDefaultSystem(spec.chat_template);
  return format;
}

// Llama 3.1 and later put two dates before every system text. Today's would make equal
// conversations differ, so it is the template's own fallback.
std::string Llama3SystemPrefix(std::string_view jinja) {
  constexpr std::string_view kCutting = "Cutting Knowledge Date: ", kToday = "date_string = \"";
  const size_t cutting = jinja.find(kCutting), today = jinja.find(kToday);
  if (cutting == std::string_view::npos || today == std::string_view::npos) return "";
  const auto date = Literal(jinja, today + kToday.size());
  const size_t line_end = jinja.find_first_of("\\\n\"'", cutting);
  if (!date || line_end == std::string_view::npos) return "";
  return absl::StrCat(std::string(jinja.substr(cutting, line_end - cutting)),
                      "\nToday Date: ", *date, "\n\n");
}

std::optional<ChatFormat> Llama3(const TokenizerSpec& spec, const Tokenizer& tokenizer) {
  const auto open = tokenizer.ControlToken("<|start_header_id|>");
  const auto header_end = tokenizer.ControlToken("<|end_header_id|>");
  const auto end = tokenizer.ControlToken("<|eot_id|>");
  if (!Contains(spec.chat_template, "<|start_header_id|>") || !open || !header_end || !end) {
    return std::nullopt;
  }
  ChatFormat format{.open = *open, .header_end = header_end, .header_text = "\n\n", .end = *end};
  format.trims_content =
      Contains(spec.chat_template, "| trim") || Contains(spec.chat_template, "|trim");
  format.system_prefix = Llama3SystemPrefix(spec.chat_template);
  if (!format.system_prefix.empty()) format.default_system = "";
  return format;
}

}  // namespace

absl::StatusOr<ChatFormat> RecogniseChatFormat(const TokenizerSpec& spec,
                                               const Tokenizer& tokenizer) {
  for (const auto recognise : {ChatMl, Llama3}) {
    auto format = recognise(spec, tokenizer);
    if (!format) continue;
    if (spec.add_bos || Contains(spec.chat_template, "bos_token")) format->bos = tokenizer.bos();
    return *std::move(format);
  }
  return absl::UnimplementedError(absl::StrCat(
      "the model's chat template (", spec.chat_template.size(),
      " characters) is neither ChatML (<|im_start|>, <|im_end|>) nor Llama 3 (<|start_header_id|>, "
      "<|end_header_id|>, <|eot_id|>), the supported formats"));
}

}  // namespace tailor
