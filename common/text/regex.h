// A compiled PCRE2 pattern over Unicode text, with limits on the work of one match.
#pragma once

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "common/unique_handle.h"

namespace tailor {

struct Pcre2CodeTraits {
  using Raw = pcre2_code*;
  static constexpr Raw kNull = nullptr;
  static void Close(Raw code) { pcre2_code_free(code); }
};
struct Pcre2ContextTraits {
  using Raw = pcre2_match_context*;
  static constexpr Raw kNull = nullptr;
  static void Close(Raw context) { pcre2_match_context_free(context); }
};
struct Pcre2MatchTraits {
  using Raw = pcre2_match_data*;
  static constexpr Raw kNull = nullptr;
  static void Close(Raw match) { pcre2_match_data_free(match); }
};

struct Span {
  size_t begin, end;
};

// Immutable after Create: one Regex serves all threads, each with its own Matcher.
class Regex {
 public:
  // Errors: InvalidArgument with PCRE2's message and the offset in the pattern.
  static absl::StatusOr<Regex> Create(const std::string& pattern);

  // Scratch of one thread; must not outlive the Regex.
  class Matcher {
   public:
    enum class Anchor { kHere, kAnywhere };
    explicit Matcher(const Regex& regex);

    // The first match at (kHere), or at or after (kAnywhere), `offset`; nullopt when there is none.
    // `text` must be valid UTF-8 and offset on a character. Errors: InvalidArgument when the limits
    // are reached.
    absl::StatusOr<std::optional<Span>> Match(std::string_view text, size_t offset,
                                              Anchor anchor) const;

   private:
    const Regex& regex_;
    UniqueHandle<Pcre2MatchTraits> match_;
  };

 private:
  Regex() = default;
  UniqueHandle<Pcre2CodeTraits> code_;
  UniqueHandle<Pcre2ContextTraits> context_;  // read only while matching
};

}  // namespace tailor
