// The families of models that compute what Llama computes but for what is listed here. To add one,
// add a row.
#pragma once

#include <array>
#include <string>
#include <string_view>

#include "common/model_file/hyperparameters.h"

namespace tailor {

struct ModelFamily {
  std::string_view gguf;          // general.architecture, and what its keys begin with
  std::string_view hugging_face;  // the one entry of config.json's "architectures"
  RopeLayout gguf_rope_layout;    // GGUF permutes the rows of Wq and Wk for Llama alone
  bool qkv_bias;                  // the projections to Q, K and V add one
};

inline constexpr std::array<ModelFamily, 2> kModelFamilies = {
    {{"llama", "LlamaForCausalLM", RopeLayout::kInterleaved, false},
     {"qwen2", "Qwen2ForCausalLM", RopeLayout::kHalf, true}}};

// The family whose `field` is `name`; nullptr when there is none.
inline const ModelFamily* FindFamily(std::string_view ModelFamily::*field, std::string_view name) {
  for (const ModelFamily& family : kModelFamilies) {
    if (family.*field == name) return &family;
  }
  return nullptr;
}

// "llama, qwen2", for messages.
inline std::string FamilyNames(std::string_view ModelFamily::*field) {
  std::string names;
  for (const ModelFamily& family : kModelFamilies) {
    names += (names.empty() ? "" : ", ") + std::string(family.*field);
  }
  return names;
}

}  // namespace tailor
