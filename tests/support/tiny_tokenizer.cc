#include "tests/support/tiny_tokenizer.h"

#include "common/status.h"
#include "common/text/byte_alphabet.h"
#include "common/text/utf8.h"

namespace tailor {

TokenizerSpec TinyTokenizerSpec() {
  TokenizerSpec spec;
  for (const char32_t symbol : ByteAlphabet()) {
    AppendUtf8(symbol, spec.tokens.emplace_back());
    spec.kinds.push_back(TokenKind::kNormal);
  }
  for (const char* merged : {"he", "ll"}) {
    spec.tokens.push_back(merged);
    spec.kinds.push_back(TokenKind::kNormal);
  }
  for (const char* control : {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}) {
    spec.tokens.push_back(control);
    spec.kinds.push_back(TokenKind::kControl);
  }
  spec.merges = {"h e", "l l"};
  spec.pre_tokenizer = "gpt-2";
  spec.eos = kTinyEnd;
  spec.chat_template =
      "{% for m in messages %}{{'<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n'}}"
      "{% endfor %}";
  return spec;
}

std::vector<TokenId> ByteIds(std::string_view text) {
  std::vector<TokenId> ids;
  for (const char c : text) ids.push_back(static_cast<uint8_t>(c));
  return ids;
}

TinyText::TinyText() {
  auto made = Tokenizer::Create(TinyTokenizerSpec());
  TS_CHECK(made.ok());
  tokenizer = *std::move(made);
  auto recognised = ChatTemplate::Create(TinyTokenizerSpec(), *tokenizer);
  TS_CHECK(recognised.ok());
  chat = std::make_unique<ChatTemplate>(*std::move(recognised));
}

}  // namespace tailor
