// Token ids to text, one at a time, for streaming: what comes out is always whole characters.
#pragma once

#include <string>

#include "common/text/tokenizer.h"

namespace tailor {

enum class ControlTokens { kHidden, kShown };

// One reply's state; not thread-safe. The Tokenizer must outlive it.
class Detokenizer {
 public:
  explicit Detokenizer(const Tokenizer& tokenizer, ControlTokens control = ControlTokens::kHidden)
      : tokenizer_(tokenizer), control_(control) {}

  // The characters that `id` completes; maybe none. Bytes that can no longer become a character
  // give U+FFFD at once, one for each maximal subpart (as Python's errors="replace"). Hidden
  // control tokens add nothing.
  std::string Push(TokenId id);

  // The end of the reply: U+FFFD for a character left unfinished, else nothing. Ready for another
  // reply.
  std::string Flush();

 private:
  const Tokenizer& tokenizer_;
  const ControlTokens control_;
  std::string pending_;  // the start of a character, at most 3 bytes
};

}  // namespace tailor
