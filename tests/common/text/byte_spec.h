// Tokenizers small enough to read: all 256 bytes, then whatever a test adds.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/model_file/tokenizer_spec.h"
#include "common/text/byte_alphabet.h"
#include "common/text/utf8.h"

namespace tailor {

// The vocabulary's writing of some bytes.
inline std::string Symbols(std::string_view bytes) {
  static const auto alphabet = ByteAlphabet();
  std::string text;
  for (const char c : bytes) AppendUtf8(alphabet[static_cast<uint8_t>(c)], text);
  return text;
}

// Returns the new token's id.
inline TokenId AddToken(TokenizerSpec& spec, const std::string& text, TokenKind kind) {
  spec.tokens.push_back(text);
  spec.kinds.push_back(kind);
  return static_cast<TokenId>(spec.tokens.size()) - 1;
}

// Adds the merged token when it is new.
inline void AddMerge(TokenizerSpec& spec, std::string_view left, std::string_view right) {
  spec.merges.push_back(Symbols(left) + " " + Symbols(right));
  const std::string merged = Symbols(left) + Symbols(right);
  for (const std::string& token : spec.tokens) {
    if (token == merged) return;
  }
  AddToken(spec, merged, TokenKind::kNormal);
}

// Token i is byte i.
inline TokenizerSpec ByteSpec(const std::string& pre_tokenizer = "gpt-2") {
  TokenizerSpec spec;
  spec.pre_tokenizer = pre_tokenizer;
  for (int byte = 0; byte < 256; ++byte) {
    AddToken(spec, Symbols(std::string(1, static_cast<char>(byte))), TokenKind::kNormal);
  }
  return spec;
}

}  // namespace tailor
