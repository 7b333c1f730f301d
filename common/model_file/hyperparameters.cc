#include "common/model_file/hyperparameters.h"

#include <cmath>
#include <numbers>
#include <string_view>

#include "common/status.h"

namespace tailor {
namespace {

absl::Status InRange(std::string_view thing, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("model's ", std::string(thing), " is ", value,
                                                 ", must be from ", low, " to ", high));
}

absl::Status InRange(std::string_view thing, float value, float low, float high) {
  if (std::isfinite(value) && value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("model's ", std::string(thing), " is ", value,
                                                 ", must be from ", low, " to ", high));
}

absl::Status ValidateScaling(const RopeScaling& s) {
  if (s.kind == RopeScaling::Kind::kNone) return absl::OkStatus();
  TS_RETURN_IF_ERROR(InRange("rope scaling factor", s.factor, 1.0f, 1e6f));
  if (s.kind == RopeScaling::Kind::kLinear) return absl::OkStatus();
  TS_RETURN_IF_ERROR(InRange("rope low_freq_factor", s.low_freq_factor, 1e-3f, 1e6f));
  TS_RETURN_IF_ERROR(InRange("rope high_freq_factor", s.high_freq_factor, 1e-3f, 1e6f));
  if (s.high_freq_factor <= s.low_freq_factor) {
    return absl::InvalidArgumentError(
        absl::StrCat("model's rope high_freq_factor is ", s.high_freq_factor,
                     ", must exceed low_freq_factor ", s.low_freq_factor));
  }
  return InRange("rope original context", s.original_context, int64_t{1}, int64_t{1} << 31);
}

}  // namespace

absl::Status LlamaHyperparameters::Validate() const {
  TS_RETURN_IF_ERROR(InRange("layer count", layers, int64_t{1}, int64_t{1024}));
  TS_RETURN_IF_ERROR(InRange("hidden size", hidden, int64_t{1}, int64_t{1} << 20));
  TS_RETURN_IF_ERROR(InRange("query head count", q_heads, int64_t{1}, int64_t{4096}));
  TS_RETURN_IF_ERROR(InRange("kv head count", kv_heads, int64_t{1}, int64_t{q_heads}));
  TS_RETURN_IF_ERROR(InRange("head_dim", head_dim, int64_t{2}, int64_t{1024}));
  TS_RETURN_IF_ERROR(InRange("ffn hidden size", ffn_hidden, int64_t{1}, int64_t{1} << 22));
  TS_RETURN_IF_ERROR(InRange("vocabulary", vocab, int64_t{1}, int64_t{1} << 24));
  TS_RETURN_IF_ERROR(InRange("context", context_tokens, int64_t{1}, int64_t{1} << 31));
  TS_RETURN_IF_ERROR(InRange("rope theta", rope_theta, 1.0f, 1e12f));
  TS_RETURN_IF_ERROR(InRange("rms epsilon", rms_eps, 0.0f, 1.0f));
  if (q_heads % kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "model has ", q_heads, " query heads, not a multiple of its ", kv_heads, " kv heads"));
  }
  if (head_dim % 2 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("model's head_dim is ", head_dim, ", must be even for RoPE"));
  }
  return ValidateScaling(rope_scaling);
}

std::vector<float> RopeFrequencyFactors(const RopeScaling& scaling, float rope_theta,
                                        int32_t head_dim) {
  std::vector<float> factors(head_dim / 2, 1.0f);
  for (int32_t i = 0; i < head_dim / 2; ++i) {
    if (scaling.kind == RopeScaling::Kind::kNone) continue;
    if (scaling.kind == RopeScaling::Kind::kLinear) {
      factors[i] = scaling.factor;
      continue;
    }
    const double frequency = std::pow(static_cast<double>(rope_theta), -2.0 * i / head_dim);
    const double turns = scaling.original_context * frequency / (2 * std::numbers::pi);
    if (turns > scaling.high_freq_factor) continue;  // short wavelengths stay as they were
    const double smooth =
        (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
    factors[i] = turns < scaling.low_freq_factor
                     ? scaling.factor
                     : static_cast<float>(1 / ((1 - smooth) / scaling.factor + smooth));
  }
  return factors;
}

}  // namespace tailor
