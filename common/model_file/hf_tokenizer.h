// Hugging Face's tokenizer.json, for byte-level BPE.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "common/model_file/tokenizer_spec.h"

namespace tailor {

// Tokens, kinds, merges and pre-tokenizer; add_bos when its post-processor prepends a token. The
// rest of the spec (bos, eos, template) is in other files. Errors: InvalidArgument (broken),
// Unimplemented (another model, normalizer or pre-tokenizer, by name).
absl::StatusOr<TokenizerSpec> ParseHfTokenizer(std::string_view tokenizer_json);

}  // namespace tailor
