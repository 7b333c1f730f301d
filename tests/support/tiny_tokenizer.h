// A ChatML vocabulary small enough to read ids by eye: ids 0 to 255 are the bytes, then a few
// merges, then control tokens.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "common/model_file/tokenizer_spec.h"
#include "common/text/chat_template.h"
#include "common/text/tokenizer.h"

namespace tailor {

inline constexpr TokenId kTinyHe = 256, kTinyLl = 257, kTinyEndOfText = 258, kTinyStart = 259,
                         kTinyEnd = 260, kTinyVocab = 261;

TokenizerSpec TinyTokenizerSpec();

// One id a byte: how no tokenizer would write "hello", so that tokenizing again would show.
std::vector<TokenId> ByteIds(std::string_view text);

struct TinyText {
  TinyText();
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<ChatTemplate> chat;
};

}  // namespace tailor
