// A Hugging Face directory in which one file is hostile. The first byte of the input says which.

#include <array>

#include "common/model_file/model_file.h"
#include "common/text/tokenizer.h"
#include "tests/common/model_file/small_llama.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/support/tiny_model.h"

namespace tailor {
namespace {

constexpr std::array<const char*, 6> kFiles = {
    "config.json",           "tokenizer.json",
    "tokenizer_config.json", "generation_config.json",
    "chat_template.jinja",   "model.safetensors.index.json"};

// Good files, written once; each input replaces one of them and then goes.
class Directory {
 public:
  Directory() { WriteHfDirectory(model_, scratch_.path()); }

  void Try(size_t which, const std::string& text) {
    const auto path = scratch_ / kFiles[which];
    WriteFile(path, text);
    const auto file = ModelFile::Open(scratch_.path());
    if (file.ok()) {
      FUZZ_EXPECT((*file)->hyperparameters().Validate().ok());
      const auto tokenizer = Tokenizer::Create((*file)->tokenizer());
      if (tokenizer.ok()) (void)(*tokenizer)->Encode("the <tool> 42");
    } else {
      FUZZ_EXPECT(!file.status().message().empty());
    }
    if (which < good_.size()) {
      WriteFile(path, good_[which]);
    } else {
      std::filesystem::remove(path);
    }
  }

 private:
  const SmallLlama model_ = MakeSmallLlama();
  const std::array<std::string, 3> good_ = {ConfigJsonOf(model_), TokenizerJsonOf(model_),
                                            TokenizerConfigJsonOf(model_)};
  ScratchDir scratch_;
};

}  // namespace

std::vector<std::string> Seeds() {
  const SmallLlama model = MakeSmallLlama();
  const auto seed = [](char which, const std::string& text) { return which + text; };
  std::string scaled = ConfigJsonOf(model);
  scaled.insert(1, R"("rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1,
    "high_freq_factor": 4, "original_max_position_embeddings": 8192}, "head_dim": 4,
    "attention_bias": false, "hidden_act": "silu",)");
  return {seed(0, ConfigJsonOf(model)),
          seed(0, scaled),
          seed(1, TokenizerJsonOf(model)),
          seed(2, TokenizerConfigJsonOf(model)),
          seed(3, R"({"eos_token_id": [2, 0], "bos_token_id": 1})"),
          seed(4, model.tokenizer.chat_template),
          seed(5, R"({"weight_map": {"a": "model.safetensors"}})")};
}

}  // namespace tailor

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tailor;
  if (size == 0) return 0;
  static Directory directory;
  directory.Try(data[0] % kFiles.size(), std::string(AsText(data + 1, size - 1)));
  return 0;
}
