// The numbers of a model of Llama's kind (model_family.h), whatever file they came from.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tailor {

// Which two channels of a head RoPE rotates together: (2i, 2i+1) or (i, i + head_dim/2). GGUF
// stores a Llama's Wq and Wk permuted for the first; other families, and all Hugging Face files,
// are for the second.
enum class RopeLayout { kInterleaved, kHalf };

struct RopeScaling {
  enum class Kind { kNone, kLinear, kLlama3 };
  Kind kind = Kind::kNone;
  float factor = 1;           // kLinear, kLlama3: the longest wavelengths are stretched by it
  float low_freq_factor = 1;  // kLlama3 only, as the rest
  float high_freq_factor = 4;
  int64_t original_context = 8192;  // tokens the model was first trained on
};

struct LlamaHyperparameters {
  int32_t layers = 0;
  int32_t hidden = 0;
  int32_t q_heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  int32_t ffn_hidden = 0;
  int32_t vocab = 0;  // rows of the embedding
  int64_t context_tokens = 0;
  float rope_theta = 10000;
  float rms_eps = 1e-5f;
  RopeLayout rope_layout = RopeLayout::kHalf;
  RopeScaling rope_scaling;
  bool tied_embedding = false;  // the head is the embedding; there is no output.weight
  bool qkv_bias = false;        // attn_q, attn_k and attn_v have one

  // InvalidArgument "thing is value, limit": sizes positive and sane, kv_heads divides q_heads,
  // head_dim even, floats finite.
  absl::Status Validate() const;
};

// By how much the wavelength of each channel pair i is stretched: the angle of position p is
// p * theta^(-2i/head_dim) / factors[i]. [head_dim / 2]; all ones without scaling.
// Source of kLlama3: Llama 3.1's rope scaling (as in Hugging Face's modeling_rope_utils).
std::vector<float> RopeFrequencyFactors(const RopeScaling& scaling, float rope_theta,
                                        int32_t head_dim);

}  // namespace tailor
