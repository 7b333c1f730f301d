#include "common/text/pre_tokenizer.h"

#include <array>

#include "common/status.h"

namespace tailor {
namespace {

// Unicode's White_Space. PCRE2's own \s has U+180E too, which the reference's has not.
#define TS_SPACE                                                                              \
  "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}" \
  "\\x{205f}\\x{3000}"

// Every pattern matches at every position, so the pieces leave nothing out.

// openai/gpt-2, encoder.py.
constexpr const char* kGpt2 = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" TS_SPACE
                              "\\p{L}\\p{N}]+|[" TS_SPACE "]+(?![^" TS_SPACE "])|[" TS_SPACE "]+";

// Every digit (of any script) on its own: Digits(individual_digits) of Hugging Face's tokenizers.
constexpr const char* kSingleDigits = "\\p{N}|\\P{N}+";

#define TS_LLAMA3_LIKE(numbers)                                                                    \
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" numbers "| ?[^" TS_SPACE           \
  "\\p{L}\\p{N}]+[\\r\\n]*|[" TS_SPACE "]*[\\r\\n]+|[" TS_SPACE "]+(?![^" TS_SPACE "])|[" TS_SPACE \
  "]+"

// meta-llama/llama3, tokenizer.py; Qwen/Qwen2, tokenizer.json.
constexpr const char* kLlama3 = TS_LLAMA3_LIKE("\\p{N}{1,3}");
constexpr const char* kQwen2 = TS_LLAMA3_LIKE("\\p{N}");

#undef TS_LLAMA3_LIKE
#undef TS_SPACE

struct Scheme {
  std::string_view name;
  std::array<const char*, 2> patterns;  // nullptr: none
};

constexpr std::array<Scheme, 4> kSchemes = {{{"gpt-2", {kGpt2, nullptr}},
                                             {"smollm", {kSingleDigits, kGpt2}},
                                             {"llama-bpe", {kLlama3, nullptr}},
                                             {"qwen2", {kQwen2, nullptr}}}};

using Matchers = std::vector<Regex::Matcher>;
using Sink = absl::FunctionRef<void(std::string_view)>;

absl::Status Cut(const Matchers& stages, size_t stage, std::string_view text, Sink piece) {
  if (stage == stages.size()) {
    piece(text);
    return absl::OkStatus();
  }
  for (size_t offset = 0; offset < text.size();) {
    TS_ASSIGN_OR_RETURN(const auto match,
                        stages[stage].Match(text, offset, Regex::Matcher::Anchor::kHere));
    TS_CHECK(match.has_value() && match->end > offset);
    TS_RETURN_IF_ERROR(Cut(stages, stage + 1, text.substr(offset, match->end - offset), piece));
    offset = match->end;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PreTokenizer> PreTokenizer::Create(const std::string& name) {
  PreTokenizer result;
  for (const Scheme& scheme : kSchemes) {
    if (scheme.name != name) continue;
    for (const char* pattern : scheme.patterns) {
      if (pattern == nullptr) continue;
      TS_ASSIGN_OR_RETURN(Regex regex, Regex::Create(pattern));
      result.stages_.push_back(std::move(regex));
    }
    return result;
  }
  return absl::UnimplementedError(absl::StrCat(
      "pre-tokenizer is \"", name, "\", supported are gpt-2, smollm, llama-bpe and qwen2"));
}

absl::Status PreTokenizer::Split(std::string_view text, Sink piece) const {
  Matchers matchers;
  for (const Regex& regex : stages_) matchers.emplace_back(regex);
  return Cut(matchers, 0, text, piece);
}

}  // namespace tailor
