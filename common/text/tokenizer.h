// START HERE: text to token ids and back, for byte-level BPE vocabularies.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model_file/tokenizer_spec.h"
#include "common/text/bpe.h"
#include "common/text/byte_alphabet.h"
#include "common/text/pre_tokenizer.h"
#include "common/types.h"

namespace tailor {

// Immutable after Create; thread-safe.
class Tokenizer {
 public:
  // Errors: InvalidArgument (a merge of unknown tokens, two tokens of one text, kinds and tokens of
  // different length), Unimplemented (pre-tokenizer); each names the culprit.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(const TokenizerSpec& spec);

  // The ids of a text, without bos. Never a control token: the literal text "<|im_end|>" becomes
  // ordinary pieces. The text is taken as it is: where a model's own tokenizer normalizes to NFC
  // (Qwen2), text that is not in NFC gets other ids here, those of llama.cpp, and comes back
  // unchanged. Bytes for which the vocabulary has no token are left out, as the reference
  // does (SmolLM2 has none for six control characters and for the first byte of planes 4 to 11,
  // which hold no characters). Time is linear in the text, times log n for a run of n letters
  // without a break. Errors: InvalidArgument (not UTF-8: names the byte offset; longer than 1 GiB;
  // a regex limit).
  absl::StatusOr<std::vector<TokenId>> Encode(std::string_view utf8) const;

  // The bytes a token stands for: not necessarily whole characters. A control token's are its
  // literal text; an id out of range has none.
  std::string_view TokenBytes(TokenId id) const;

  // Control tokens are structure, not content: also the unknown token and unused ids.
  bool IsControl(TokenId id) const;
  std::optional<TokenId> ControlToken(std::string_view literal) const;

  int32_t vocab_size() const { return static_cast<int32_t>(tokens_.size()); }
  std::optional<TokenId> bos() const { return bos_; }
  std::optional<TokenId> eos() const { return eos_; }

  // Every id that ends a reply: eos, those the file names, and control tokens with a well-known
  // text
  // (<|im_end|>, <|eot_id|>, <|endoftext|>, ...). Sorted.
  const std::vector<TokenId>& end_of_generation() const { return end_of_generation_; }

 private:
  struct Token {
    std::string bytes;
    TokenKind kind;
  };

  Tokenizer() = default;
  absl::Status AddTokens(const TokenizerSpec& spec);
  absl::Status AddToken(const std::string& text, TokenKind kind, const ByteDecoder& decoder);
  absl::Status AddMerges(const std::vector<std::string>& merges);
  absl::Status AddUserDefined();
  void FindEndOfGeneration(const TokenizerSpec& spec);
  absl::Status EncodePlain(std::string_view text, BpeMerges::Scratch& scratch,
                           std::vector<TokenId>& out) const;
  void EncodePiece(std::string_view piece, std::vector<TokenId>& symbols,
                   BpeMerges::Scratch& scratch, std::vector<TokenId>& out) const;

  std::vector<Token> tokens_;
  // Keys point into tokens_, which does not change after AddTokens.
  std::unordered_map<std::string_view, TokenId> by_bytes_;  // what text may become
  std::unordered_map<std::string_view, TokenId> user_defined_;
  std::unordered_map<std::string_view, TokenId> control_;
  std::array<TokenId, 256> byte_token_ = {};  // -1: the vocabulary lacks the byte
  BpeMerges merges_;
  bool ignore_merges_ = false;
  std::optional<PreTokenizer> pre_tokenizer_;
  std::optional<Regex> user_defined_pattern_;
  std::optional<TokenId> bos_, eos_;
  std::vector<TokenId> end_of_generation_;
};

}  // namespace tailor
