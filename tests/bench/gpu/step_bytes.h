// Bytes that one decode step must move, and the least time that takes: the formulas of the issue's
// performance anchors, for our own index (4-bit codes with a scale and a minimum for each channel
// of a page: 0.5625 bytes a key value, as a 4-bit sketch with groups of 64 has). Scores, top-k,
// activations and launches are left out.
#pragma once

#include <cstdint>
#include <string_view>

#include "common/model_file/hyperparameters.h"
#include "worker/policy/layer_policy.h"

namespace tailor::bench {

// How a step attends.
enum class Path {
  kEmpty,   // no context: the weights alone
  kFull,    // a full-precision cache in device memory
  kSketch,  // hybrid, by selector
  kDevice,
  kStore,
  kInline,
};
std::string_view ToString(Path path);
Selector SelectorOf(Path path);  // of the hybrid ones

struct StepBytes {
  double device = 0;         // read and written in device memory
  double pcie_channels = 0;  // key channels that cross to be scored
  double pcie_rows = 0;      // selected rows that cross
  double host = 0;           // read from the host's memory by anybody
  double host_scoring = 0;   // of those, by the host's own threads
};

// Of `batch` sequences of `context` tokens each; the weights are read once. `weight_bytes`: what a
// step reads of them (all but the embedding).
StepBytes StepBytesOf(const LlamaHyperparameters& model, const LayerPolicy& policy, Path path,
                      int64_t context, int32_t batch, double weight_bytes);

struct Ceilings {  // measured in the same run; bytes and FLOPs a second
  double device_copy = 0, pinned_to_device = 0, host_read = 0, gemm = 0;
};

// Rows depend on the layer's own query, so they come after what is slowest of the rest; seconds.
double SerialFloor(const StepBytes& bytes, const Ceilings& ceilings);

double LinearWeights(const LlamaHyperparameters& model);  // values in the layers' products
// 2 a weight and token, and causal attention's 2 n^2 q_heads head_dim a layer.
double PrefillFlops(const LlamaHyperparameters& model, int64_t tokens);

}  // namespace tailor::bench
