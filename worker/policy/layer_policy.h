// The layer table of one model: which layers are quantized, which are sparse, and with what
// numbers. A small JSON file beside the model, bound to its weights by fingerprint. ALGORITHM
// §1-§3.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/fingerprint.h"
#include "common/model_file/model_file.h"
#include "kvstore/select/select.h"
#include "worker/policy/calibration_evidence.h"

namespace tailor {

enum class Selector {
  kInline,  // a CPU worker maps the store's memory and selects itself
  kStore,   // the store's threads select and place the rows
  // Below: worker/cache/device_fetcher.h; a backend without selection kernels runs them as kInline.
  kSketch,  // the device selects from its own copy of the index
  kDevice,  // the device selects from the store's index over PCIe at every step: the published path
};
std::string_view ToString(Selector selector);
enum class QueryMode {
  kExact,      // channels and scores from the layer's true query
  kPredicted,  // from Wq_{l+1} . norm(h_l): runs one layer ahead
};

// Which RMSNorm gain the predicted query takes: the reference uses layer l's, InfiniGen layer
// l+1's.
enum class PredictNorm { kCurrent, kNext };

// What stands for the tokens that a sparse layer does not fetch:
// docs/decisions/0007-skipped-tail.md.
enum class Tail { kNone, kPageMeans };

struct LayerPolicy {
  static constexpr int kVersion = 1;

  std::string model_name;
  Fingerprint weights;                    // of the model this was made for
  std::vector<int32_t> quantized_layers;  // ascending; all others are sparse
  int32_t bits = 2;                       // of quantized layers: 1, 2, 4, 8
  int32_t residual_tokens = 128;          // newest tokens of quantized layers in full precision
  int32_t sink_tokens = 8;
  int32_t recent_tokens = 56;
  SelectParams select;  // how sparse layers choose; sink_tokens as above
  // Rows fetched in each layer, by layer number (quantized ones' are not used); empty: select.top_k
  // in all. Layers differ in how widely they attend: docs/decisions/0004-selection.md.
  std::vector<int32_t> layer_top_k;
  // Tokens of sealed pages that a step does not fetch: left out, or estimated from their pages'
  // mean rows, whose weights are raised by e^tail_gain. Means cost 1/128 of the rows in worker
  // memory.
  Tail tail = Tail::kPageMeans;
  float tail_gain = 0.25f;
  Selector selector = Selector::kInline;
  // With kSketch: rows a layer and KV head kept on the device; a multiple of 4, 0: none. More
  // memory, fewer rows over PCIe: about four times top_k spares 84 % of them
  // (tests/bench/row_cache_bench).
  int32_t row_cache_rows = 512;
  QueryMode query = QueryMode::kExact;
  PredictNorm predict_norm = PredictNorm::kNext;
  // Self-check of sparse layers (worker/cache/self_check.h): at a turn's first decode step and at every
  // position that this divides; 0: never. Oftener sees more and costs more: a check reads one KV head's
  // rows of every sparse layer.
  int32_t check_every_tokens = 256;
  // Below this mean captured mass a sequence's top_k doubles, in the end to exact attention; 0: never.
  // Higher is closer to exact and slower.
  float mass_floor = 0;
  // Where the numbers come from, for people: a note by hand, or what `tailor calibrate` measured
  // (shared, since every sequence has a copy of its policy). Neither changes a token.
  std::string note;
  std::shared_ptr<const CalibrationEvidence> calibration;

  // Tokens the worker keeps beyond the last sealed page: max(recent, residual).
  int32_t WindowTokens() const;
  bool IsQuantized(int32_t layer) const;
  std::optional<float> TailGain() const;  // of OffloadedCache
  std::vector<int32_t> SparseLayers(int32_t layers) const;
  // Errors: InvalidArgument names field, value, limit; FailedPrecondition when made for other
  // weights.
  absl::Status Validate(const LlamaHyperparameters& model, const Fingerprint& weights) const;
  // Over every field that changes tokens: selector, note and calibration are not among them.
  Fingerprint fingerprint() const;
  std::string Summary() const;

  std::string ToJson() const;
  static absl::StatusOr<LayerPolicy> FromJson(std::string_view json);
  static absl::StatusOr<LayerPolicy> Load(const std::filesystem::path& path);
  // The documented default for a model without a file: layer 0 quantized, and the
  // selection of docs/decisions/0004-selection.md.
  static LayerPolicy Default(const std::string& model_name, const Fingerprint& weights,
                             const LlamaHyperparameters& model);
};

}  // namespace tailor
