// Cuts text into the pieces within which byte pairs are merged.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "common/text/regex.h"

namespace tailor {

// Immutable after Create; thread-safe.
class PreTokenizer {
 public:
  // "gpt-2", "smollm", "llama-bpe" or "qwen2" (GGUF's names). Errors: Unimplemented naming those.
  static absl::StatusOr<PreTokenizer> Create(const std::string& name);

  // Calls `piece` with consecutive, non-empty views that together are all of `text` (valid UTF-8).
  // Takes time linear in the text. Errors: InvalidArgument when a match exceeds its limits.
  absl::Status Split(std::string_view text,
                     absl::FunctionRef<void(std::string_view piece)> piece) const;

 private:
  PreTokenizer() = default;
  // Each cuts every piece of the one before, and sees nothing beyond it.
  std::vector<Regex> stages_;
};

}  // namespace tailor
