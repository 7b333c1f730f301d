// Files to measure on: read whole, fingerprinted, cut into windows of tokens.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "common/model_file/tokenizer_spec.h"
#include "common/text/tokenizer.h"
#include "worker/quality/text_quality.h"

namespace tailor {

struct InputFile {
  std::string text;
  std::string fingerprint;  // in hexadecimal, of a length-prefixed string
};
// Errors: NotFound, InvalidArgument past 1 GiB, naming the path.
absl::StatusOr<InputFile> ReadInput(const std::filesystem::path& path);

// CutWindows of a whole text; `path` is for the error.
absl::StatusOr<std::vector<std::vector<TokenId>>> CutText(const std::string& text,
                                                          const std::filesystem::path& path,
                                                          const Tokenizer& tokenizer,
                                                          const TokenizerSpec& spec,
                                                          const TextOptions& options);

}  // namespace tailor
