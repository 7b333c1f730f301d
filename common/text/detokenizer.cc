#include "common/text/detokenizer.h"

#include "common/text/utf8.h"

namespace tailor {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD

}  // namespace

std::string Detokenizer::Push(TokenId id) {
  if (control_ == ControlTokens::kHidden && tokenizer_.IsControl(id)) return "";
  const std::string bytes = pending_ + std::string(tokenizer_.TokenBytes(id));
  pending_.clear();
  std::string text;
  for (std::string_view rest = bytes; !rest.empty();) {
    const Utf8Unit unit = NextUtf8(rest);
    if (unit.kind == Utf8Kind::kIncomplete) {
      pending_ = rest;
      break;
    }
    text += unit.kind == Utf8Kind::kCharacter ? rest.substr(0, unit.length) : kReplacement;
    rest.remove_prefix(unit.length);
  }
  return text;
}

std::string Detokenizer::Flush() {
  if (pending_.empty()) return "";
  pending_.clear();
  return std::string(kReplacement);
}

}  // namespace tailor
