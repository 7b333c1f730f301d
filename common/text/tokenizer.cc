#include "common/text/tokenizer.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <utility>

#include "common/status.h"
#include "common/text/byte_alphabet.h"
#include "common/text/utf8.h"

namespace tailor {
namespace {

constexpr size_t kMaxTextBytes = size_t{1} << 30;
constexpr TokenId kNone = -1;

// As llama.cpp does: a chat model may end a reply with any of these, whatever its file calls eos.
constexpr std::array<std::string_view, 5> kEndTexts = {"<|im_end|>", "<|eot_id|>", "<|eom_id|>",
                                                       "<|endoftext|>", "<|end_of_text|>"};

bool IsPlain(TokenKind kind) { return kind == TokenKind::kNormal || kind == TokenKind::kByte; }

absl::Status BadMerge(size_t rank, const std::string& merge, const char* problem) {
  return absl::InvalidArgumentError(absl::StrCat("merge ", rank, " \"", merge, "\" ", problem));
}

// "a|b|c" with every character taken literally, the longest first: PCRE2 takes the first that
// matches.
std::string LiteralPattern(std::vector<std::string_view> texts) {
  std::stable_sort(texts.begin(), texts.end(),
                   [](std::string_view a, std::string_view b) { return a.size() > b.size(); });
  std::string pattern;
  for (const std::string_view text : texts) {
    if (!pattern.empty()) pattern += '|';
    for (const char c : text) {
      const bool is_special =
          static_cast<uint8_t>(c) < 0x80 && std::ispunct(static_cast<uint8_t>(c));
      if (is_special) pattern += '\\';
      pattern += c;
    }
  }
  return pattern;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Create(const TokenizerSpec& spec) {
  auto tokenizer = std::unique_ptr<Tokenizer>(new Tokenizer());
  TS_ASSIGN_OR_RETURN(PreTokenizer pre, PreTokenizer::Create(spec.pre_tokenizer));
  tokenizer->pre_tokenizer_ = std::move(pre);
  tokenizer->ignore_merges_ = spec.ignore_merges;
  TS_RETURN_IF_ERROR(tokenizer->AddTokens(spec));
  TS_RETURN_IF_ERROR(tokenizer->AddMerges(spec.merges));
  TS_RETURN_IF_ERROR(tokenizer->AddUserDefined());
  tokenizer->bos_ = spec.bos;
  tokenizer->eos_ = spec.eos;
  tokenizer->FindEndOfGeneration(spec);
  return tokenizer;
}

absl::Status Tokenizer::AddTokens(const TokenizerSpec& spec) {
  if (spec.kinds.size() != spec.tokens.size() || spec.tokens.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer has ", spec.tokens.size(),
                                                   " tokens and ", spec.kinds.size(), " kinds"));
  }
  tokens_.reserve(spec.tokens.size());  // the tables point into it
  const ByteDecoder decoder;
  for (size_t id = 0; id < spec.tokens.size(); ++id) {
    TS_RETURN_IF_ERROR(AddToken(spec.tokens[id], spec.kinds[id], decoder));
  }
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    const auto found = by_bytes_.find(std::string_view(&c, 1));
    byte_token_[byte] = found == by_bytes_.end() ? kNone : found->second;
  }
  return absl::OkStatus();
}

absl::Status Tokenizer::AddToken(const std::string& text, TokenKind kind,
                                 const ByteDecoder& decoder) {
  const auto id = static_cast<TokenId>(tokens_.size());
  const auto bytes = IsPlain(kind) ? decoder.Decode(text) : std::nullopt;
  // A vocabulary string outside the byte alphabet stands for itself, and no text leads to it.
  const Token& token = tokens_.emplace_back(Token{bytes.value_or(text), kind});
  if (token.bytes.empty()) return absl::OkStatus();
  if (bytes && !by_bytes_.try_emplace(token.bytes, id).second) {
    return absl::InvalidArgumentError(
        absl::StrCat("token ", id, " \"", text, "\" is in the vocabulary twice"));
  }
  if (kind == TokenKind::kUserDefined) user_defined_.try_emplace(token.bytes, id);
  if (kind == TokenKind::kControl) control_.try_emplace(token.bytes, id);
  return absl::OkStatus();
}

absl::Status Tokenizer::AddMerges(const std::vector<std::string>& merges) {
  const ByteDecoder decoder;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const std::string& merge = merges[rank];
    const size_t space = merge.find(' ');
    if (space == std::string::npos) return BadMerge(rank, merge, "has no space");
    const auto left = decoder.Decode(std::string_view(merge).substr(0, space));
    const auto right = decoder.Decode(std::string_view(merge).substr(space + 1));
    if (!left || !right) return BadMerge(rank, merge, "is not in the byte alphabet");
    const std::string merged = *left + *right;
    // Structure never grows out of text: such a merge, or one on top of it, is left out.
    if (control_.contains(*left) || control_.contains(*right) || control_.contains(merged))
      continue;
    const auto a = by_bytes_.find(*left), b = by_bytes_.find(*right), c = by_bytes_.find(merged);
    if (a == by_bytes_.end() || b == by_bytes_.end() || c == by_bytes_.end()) {
      return BadMerge(rank, merge, "names a token that is not in the vocabulary");
    }
    if (!merges_.Add(a->second, b->second, c->second))
      return BadMerge(rank, merge, "is there twice");
  }
  return absl::OkStatus();
}

absl::Status Tokenizer::AddUserDefined() {
  if (user_defined_.empty()) return absl::OkStatus();
  std::vector<std::string_view> texts;
  for (const auto& [text, id] : user_defined_) {
    if (FirstInvalidUtf8(text)) {
      return absl::InvalidArgumentError(absl::StrCat("user-defined token ", id, " is not UTF-8"));
    }
    texts.push_back(text);
  }
  TS_ASSIGN_OR_RETURN(Regex pattern, Regex::Create(LiteralPattern(std::move(texts))));
  user_defined_pattern_ = std::move(pattern);
  return absl::OkStatus();
}

void Tokenizer::FindEndOfGeneration(const TokenizerSpec& spec) {
  std::vector<TokenId>& ends = end_of_generation_;
  ends = spec.extra_end_of_generation;
  if (spec.eos) ends.push_back(*spec.eos);
  for (const std::string_view text : kEndTexts) {
    if (const auto id = ControlToken(text)) ends.push_back(*id);
  }
  std::sort(ends.begin(), ends.end());
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
}

absl::StatusOr<std::vector<TokenId>> Tokenizer::Encode(std::string_view utf8) const {
  if (utf8.size() > kMaxTextBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("text has ", utf8.size(), " bytes, limit ", kMaxTextBytes));
  }
  if (const auto offset = FirstInvalidUtf8(utf8)) {
    return absl::InvalidArgumentError(
        absl::StrCat("text of ", utf8.size(), " bytes is not valid UTF-8 at byte ", *offset));
  }
  std::vector<TokenId> ids;
  BpeMerges::Scratch scratch;
  if (!user_defined_pattern_) {
    TS_RETURN_IF_ERROR(EncodePlain(utf8, scratch, ids));
    return ids;
  }
  const Regex::Matcher literals(*user_defined_pattern_);
  for (size_t offset = 0; offset < utf8.size();) {
    TS_ASSIGN_OR_RETURN(const auto match,
                        literals.Match(utf8, offset, Regex::Matcher::Anchor::kAnywhere));
    const size_t plain_end = match ? match->begin : utf8.size();
    TS_RETURN_IF_ERROR(EncodePlain(utf8.substr(offset, plain_end - offset), scratch, ids));
    if (!match) break;
    ids.push_back(user_defined_.at(utf8.substr(match->begin, match->end - match->begin)));
    offset = match->end;
  }
  return ids;
}

absl::Status Tokenizer::EncodePlain(std::string_view text, BpeMerges::Scratch& scratch,
                                    std::vector<TokenId>& out) const {
  std::vector<TokenId> symbols;
  return pre_tokenizer_->Split(
      text, [&](std::string_view piece) { EncodePiece(piece, symbols, scratch, out); });
}

void Tokenizer::EncodePiece(std::string_view piece, std::vector<TokenId>& symbols,
                            BpeMerges::Scratch& scratch, std::vector<TokenId>& out) const {
  if (ignore_merges_) {
    if (const auto found = by_bytes_.find(piece); found != by_bytes_.end()) {
      out.push_back(found->second);
      return;
    }
  }
  symbols.clear();
  for (const char c : piece) {
    const TokenId id = byte_token_[static_cast<uint8_t>(c)];
    if (id != kNone) symbols.push_back(id);
  }
  merges_.Encode(symbols, scratch, out);
}

std::string_view Tokenizer::TokenBytes(TokenId id) const {
  if (id < 0 || id >= vocab_size()) return {};
  return tokens_[id].bytes;
}

bool Tokenizer::IsControl(TokenId id) const {
  if (id < 0 || id >= vocab_size()) return true;
  const TokenKind kind = tokens_[id].kind;
  return kind == TokenKind::kControl || kind == TokenKind::kUnknown || kind == TokenKind::kUnused;
}

std::optional<TokenId> Tokenizer::ControlToken(std::string_view literal) const {
  const auto found = control_.find(literal);
  if (found == control_.end()) return std::nullopt;
  return found->second;
}

}  // namespace tailor
