// What a model file says about its tokenizer: data only; common/text/tokenizer.h makes it work.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/types.h"

namespace tailor {

enum class TokenKind {
  kNormal,       // made by merges
  kControl,      // structure (<|im_end|>); never the reading of user text
  kUserDefined,  // found literally in text before anything else
  kUnknown,
  kByte,
  kUnused,  // a hole in the table or padding of the embedding
};

struct TokenizerSpec {
  // By id. kNormal and kByte tokens are in GPT-2's byte alphabet (one printable character a byte: a
  // space is U+0120); all others are their literal text.
  std::vector<std::string> tokens;
  std::vector<TokenKind> kinds;     // as long as tokens
  std::vector<std::string> merges;  // "left right", best first
  std::string pre_tokenizer;        // "gpt-2", "smollm", "llama-bpe" or "qwen2"
  bool ignore_merges = false;       // a piece that is a token as it stands is not merged (Llama 3)
  std::optional<TokenId> bos, eos, unknown;
  std::vector<TokenId> extra_end_of_generation;  // beside eos
  bool add_bos = false;                          // a conversation starts with bos
  std::string chat_template;                     // Jinja text; may be empty
};

}  // namespace tailor
