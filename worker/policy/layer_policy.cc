#include "worker/policy/layer_policy.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "absl/strings/str_join.h"
#include "common/status.h"

namespace tailor {
namespace {

constexpr float kMaxTailGain = 4;

absl::Status CheckRange(const char* field, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("policy field ", field, " is ", value, ", limit ", low, "..", high));
}

}  // namespace

std::string_view ToString(Selector selector) {
  switch (selector) {
    case Selector::kInline:
      return "inline";
    case Selector::kStore:
      return "store";
    case Selector::kSketch:
      return "sketch";
    case Selector::kDevice:
      return "device";
  }
  TS_CHECK(false);
}

int32_t LayerPolicy::WindowTokens() const {
  return quantized_layers.empty() ? recent_tokens : std::max(recent_tokens, residual_tokens);
}

bool LayerPolicy::IsQuantized(int32_t layer) const {
  return std::binary_search(quantized_layers.begin(), quantized_layers.end(), layer);
}

std::vector<int32_t> LayerPolicy::SparseLayers(int32_t layers) const {
  std::vector<int32_t> sparse;
  for (int32_t layer = 0; layer < layers; ++layer) {
    if (!IsQuantized(layer)) sparse.push_back(layer);
  }
  return sparse;
}

std::optional<float> LayerPolicy::TailGain() const {
  return tail == Tail::kNone ? std::nullopt : std::optional(tail_gain);
}

absl::Status LayerPolicy::Validate(const LlamaHyperparameters& model,
                                   const Fingerprint& model_weights) const {
  if (weights != model_weights) {
    return absl::FailedPreconditionError(
        absl::StrCat("policy was made for weights ", weights.ToHex().substr(0, 16),
                     ", the model has ", model_weights.ToHex().substr(0, 16)));
  }
  for (size_t i = 0; i < quantized_layers.size(); ++i) {
    TS_RETURN_IF_ERROR(CheckRange("quantized_layers", quantized_layers[i], 0, model.layers - 1));
    if (i > 0 && quantized_layers[i] <= quantized_layers[i - 1]) {
      return absl::InvalidArgumentError("policy field quantized_layers is not ascending");
    }
  }
  if (bits != 1 && bits != 2 && bits != 4 && bits != 8) {
    return absl::InvalidArgumentError(
        absl::StrCat("policy field bits is ", bits, ", limit 1, 2, 4 or 8"));
  }
  if (!quantized_layers.empty() && model.head_dim % 64 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("head_dim is ", model.head_dim, ", quantized layers need a multiple of 64"));
  }
  TS_RETURN_IF_ERROR(CheckRange("residual_tokens", residual_tokens, 1, 4096));
  TS_RETURN_IF_ERROR(CheckRange("sink_tokens", sink_tokens, 0, kPageTokens));
  TS_RETURN_IF_ERROR(CheckRange("recent_tokens", recent_tokens, 1, 4096));
  TS_RETURN_IF_ERROR(CheckRange("channels", select.channels, 1, model.head_dim));
  TS_RETURN_IF_ERROR(CheckRange("top_k", select.top_k, 1, kMaxTopK));
  if (!layer_top_k.empty()) {
    TS_RETURN_IF_ERROR(CheckRange("layer_top_k's length", static_cast<int64_t>(layer_top_k.size()),
                                  model.layers, model.layers));
  }
  for (const int32_t top_k : layer_top_k) {
    TS_RETURN_IF_ERROR(CheckRange("layer_top_k", top_k, 1, kMaxTopK));
  }
  TS_RETURN_IF_ERROR(CheckRange("rescore_extra", select.rescore_extra, 0, kMaxTopK));
  TS_RETURN_IF_ERROR(CheckRange("row_cache_rows", row_cache_rows, 0, 1 << 16));
  if (row_cache_rows % 4 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("policy field row_cache_rows is ", row_cache_rows, ", not a multiple of 4"));
  }
  if (!(std::abs(tail_gain) <= kMaxTailGain)) {
    return absl::InvalidArgumentError(absl::StrCat("policy field tail_gain is ", tail_gain,
                                                   ", limit -", kMaxTailGain, "..", kMaxTailGain));
  }
  TS_RETURN_IF_ERROR(CheckRange("check_every_tokens", check_every_tokens, 0, 1 << 20));
  if (!(mass_floor >= 0 && mass_floor < 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("policy field mass_floor is ", mass_floor, ", limit 0 to below 1"));
  }
  if (mass_floor > 0 && check_every_tokens == 0) {
    return absl::InvalidArgumentError("policy field mass_floor needs check_every_tokens above 0");
  }
  if (calibration == nullptr) return absl::OkStatus();
  return CheckRange("evidence.dense_preference's length",
                    static_cast<int64_t>(calibration->scores.size()), model.layers, model.layers);
}

Fingerprint LayerPolicy::fingerprint() const {
  Fingerprinter f;
  f.AddString("tailor layer policy").AddInt(kVersion);
  f.AddBytes(std::as_bytes(std::span(weights.bytes)));
  f.AddInt(static_cast<int64_t>(quantized_layers.size()));
  for (const int32_t layer : quantized_layers) f.AddInt(layer);
  f.AddInt(bits).AddInt(residual_tokens).AddInt(sink_tokens).AddInt(recent_tokens);
  f.AddInt(select.channels).AddInt(select.top_k);
  f.AddInt(static_cast<int64_t>(select.group)).AddInt(select.rescore_extra);
  f.AddInt(static_cast<int64_t>(layer_top_k.size()));
  for (const int32_t top_k : layer_top_k) f.AddInt(top_k);
  if (tail != Tail::kNone) {
    f.AddInt(static_cast<int64_t>(tail));
    f.AddInt(static_cast<int64_t>(std::bit_cast<uint32_t>(tail_gain)));
  }
  f.AddInt(static_cast<int64_t>(query)).AddInt(static_cast<int64_t>(predict_norm));
  // Checks alone change no token.
  if (mass_floor > 0) {
    f.AddInt(check_every_tokens).AddInt(static_cast<int64_t>(std::bit_cast<uint32_t>(mass_floor)));
  }
  return f.Finish();
}

std::string LayerPolicy::Summary() const {
  const std::string rows =
      layer_top_k.empty()
          ? absl::StrCat(select.top_k)
          : absl::StrCat(*std::min_element(layer_top_k.begin(), layer_top_k.end()), " to ",
                         *std::max_element(layer_top_k.begin(), layer_top_k.end()));
  return absl::StrCat("quantized layers [", absl::StrJoin(quantized_layers, ","), "] at ", bits,
                      " bits, residual ", residual_tokens, "; sparse layers: ", select.channels,
                      " channels, group ", select.group == GroupRule::kMean ? "mean" : "heads",
                      ", ", rows, " rows fetched, ", select.rescore_extra, " more rescored, sink ",
                      sink_tokens, ", recent ", recent_tokens,
                      tail == Tail::kNone ? "" : ", tail from page means", ", query ",
                      query == QueryMode::kExact ? "exact" : "predicted", ", selector ",
                      std::string(ToString(selector)),
                      mass_floor > 0 ? absl::StrCat(", mass floor ", mass_floor) : "");
}

LayerPolicy LayerPolicy::Default(const std::string& model_name, const Fingerprint& weights,
                                 const LlamaHyperparameters& model) {
  LayerPolicy policy;
  policy.model_name = model_name;
  policy.weights = weights;
  if (model.head_dim % 64 == 0) policy.quantized_layers = {0};
  policy.bits = 4;  // one layer's codes are small beside the rest: decisions/0007-skipped-tail.md
  policy.select.channels = std::min(policy.select.channels, model.head_dim);
  policy.select.sink_tokens = policy.sink_tokens;
  return policy;
}

}  // namespace tailor
