// Models of Llama's kind of a few thousand weights, as a GGUF file and as a Hugging Face directory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "common/model_file/hyperparameters.h"
#include "common/model_file/model_family.h"
#include "common/model_file/tokenizer_spec.h"

namespace tailor {

struct FloatTensor {
  int64_t rows = 1;
  int64_t cols = 1;
  std::vector<float> values;
};

struct SmallLlama {
  const ModelFamily* family = &kModelFamilies[0];
  LlamaHyperparameters hyperparameters;
  TokenizerSpec tokenizer;
  std::map<std::string, FloatTensor> tensors;  // by canonical name
};

// Two layers, hidden 16, 4 query and 2 KV heads of 4, ffn 24, an output head of its own; the
// vocabulary has all bytes, two merges, three control tokens and one user-defined; pre-tokenizer
// smollm.
SmallLlama MakeSmallLlama();

// The same shape as a Qwen2, with its biases and its pre-tokenizer.
SmallLlama MakeSmallQwen2();

// Metadata beside what the hyperparameters say is added to `extra_keys` (GgufKey).
std::string GgufOf(const SmallLlama& model, const std::vector<std::string>& extra_keys = {});

// The tensors by Hugging Face's names.
std::string SafetensorsOf(const SmallLlama& model);
std::string ConfigJsonOf(const SmallLlama& model);
std::string TokenizerJsonOf(const SmallLlama& model);
std::string TokenizerConfigJsonOf(const SmallLlama& model);

void WriteFile(const std::filesystem::path& path, const std::string& bytes);
void WriteHfDirectory(const SmallLlama& model, const std::filesystem::path& directory);

}  // namespace tailor
