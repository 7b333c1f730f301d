// tokenizer.json, up to a working tokenizer.

#include "common/model_file/hf_tokenizer.h"

#include "common/text/tokenizer.h"
#include "tests/common/model_file/small_llama.h"
#include "tests/fuzz/fuzz_target.h"

namespace tailor {

std::vector<std::string> Seeds() {
  return {TokenizerJsonOf(MakeSmallLlama()), R"({"added_tokens": [
    {"id": 0, "content": "<s>", "special": true}, {"id": 4, "content": "<t>", "special": false}],
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
    "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}]},
    "model": {"type": "BPE", "ignore_merges": true, "vocab": {"a": 1, "b": 2, "ab": 3},
              "merges": [["a", "b"]]}})"};
}

}  // namespace tailor

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tailor;
  const auto spec = ParseHfTokenizer(AsText(data, size));
  if (!spec.ok()) {
    FUZZ_EXPECT(!spec.status().message().empty());
    return 0;
  }
  FUZZ_EXPECT(spec->tokens.size() == spec->kinds.size());
  const auto tokenizer = Tokenizer::Create(*spec);
  if (!tokenizer.ok()) return 0;
  const auto ids = (*tokenizer)->Encode("abab <t><s> 123");
  FUZZ_EXPECT(ids.ok());
  for (const TokenId id : *ids) FUZZ_EXPECT(!(*tokenizer)->IsControl(id));
  return 0;
}
