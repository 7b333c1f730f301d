#include "common/text/regex.h"

#include <array>

#include "common/status.h"

namespace tailor {
namespace {

// Backtracking steps of one match. Our patterns take a few steps a character of a run at most; a
// hostile run of 10 MB of blanks is where they stop.
constexpr uint32_t kMatchLimit = 10'000'000;
constexpr uint32_t kDepthLimit = 10'000;
constexpr uint32_t kHeapLimitKib = 64 * 1024;

std::string ErrorText(int code) {
  std::array<PCRE2_UCHAR, 256> text = {};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

}  // namespace

absl::StatusOr<Regex> Regex::Create(const std::string& pattern) {
  int error = 0;
  PCRE2_SIZE error_offset = 0;
  Regex regex;
  regex.code_ = UniqueHandle<Pcre2CodeTraits>(pcre2_compile(
      reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
      PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &error_offset, nullptr));
  if (!regex.code_) {
    return absl::InvalidArgumentError(absl::StrCat(
        "pattern of ", pattern.size(), " bytes: ", ErrorText(error), " at ", error_offset));
  }
  // Without a JIT (another CPU, or no executable memory) matching is slower and the same.
  pcre2_jit_compile(regex.code_.get(), PCRE2_JIT_COMPLETE);
  regex.context_ = UniqueHandle<Pcre2ContextTraits>(pcre2_match_context_create(nullptr));
  TS_CHECK(regex.context_);
  pcre2_set_match_limit(regex.context_.get(), kMatchLimit);
  pcre2_set_depth_limit(regex.context_.get(), kDepthLimit);
  pcre2_set_heap_limit(regex.context_.get(), kHeapLimitKib);
  return regex;
}

Regex::Matcher::Matcher(const Regex& regex)
    : regex_(regex), match_(pcre2_match_data_create_from_pattern(regex.code_.get(), nullptr)) {
  TS_CHECK(match_);
}

absl::StatusOr<std::optional<Span>> Regex::Matcher::Match(std::string_view text, size_t offset,
                                                          Anchor anchor) const {
  const uint32_t options = PCRE2_NO_UTF_CHECK | (anchor == Anchor::kHere ? PCRE2_ANCHORED : 0);
  const int code = pcre2_match(regex_.code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()),
                               text.size(), offset, options, match_.get(), regex_.context_.get());
  if (code == PCRE2_ERROR_NOMATCH) return std::optional<Span>();
  if (code < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "text of ", text.size(), " bytes cannot be split at byte ", offset, ": ", ErrorText(code)));
  }
  const PCRE2_SIZE* spans = pcre2_get_ovector_pointer(match_.get());
  return std::optional<Span>({spans[0], spans[1]});
}

}  // namespace tailor
