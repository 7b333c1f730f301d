#include "tests/bench/gpu/step_bytes.h"

#include <algorithm>

#include "common/status.h"

namespace tailor::bench {
namespace {

constexpr double kRowValueBytes = 2;         // bf16
constexpr double kIndexValueBytes = 0.5625;  // 4 bits, and 8 bytes for every 128 of them
constexpr double kQuantGroupParams = 4;      // two bf16 for every kQuantGroup values
constexpr double kQuantGroup = 64;

}  // namespace

std::string_view ToString(Path path) {
  switch (path) {
    case Path::kEmpty:
      return "empty";
    case Path::kFull:
      return "full";
    case Path::kSketch:
      return "sketch";
    case Path::kDevice:
      return "device";
    case Path::kStore:
      return "store";
    case Path::kInline:
      return "inline";
  }
  TS_CHECK(false);
}

Selector SelectorOf(Path path) {
  switch (path) {
    case Path::kSketch:
      return Selector::kSketch;
    case Path::kDevice:
      return Selector::kDevice;
    case Path::kStore:
      return Selector::kStore;
    case Path::kInline:
      return Selector::kInline;
    case Path::kEmpty:
    case Path::kFull:
      break;
  }
  TS_CHECK(false);
}

StepBytes StepBytesOf(const LlamaHyperparameters& m, const LayerPolicy& policy, Path path,
                      int64_t context, int32_t batch, double weight_bytes) {
  const double n = static_cast<double>(context), kv_cols = double{1} * m.kv_heads * m.head_dim;
  const double row = 2 * kv_cols * kRowValueBytes;  // K and V of one token, all heads
  StepBytes bytes;
  bytes.device = weight_bytes;
  if (path == Path::kEmpty) return bytes;
  if (path == Path::kFull) {
    bytes.device += batch * n * row * m.layers;
    return bytes;
  }
  const auto quantized = static_cast<double>(policy.quantized_layers.size());
  const double sparse = m.layers - quantized;
  const double codes = 2 * kv_cols * (policy.bits / 8.0 + kQuantGroupParams / kQuantGroup);
  const double window = policy.sink_tokens + policy.recent_tokens;
  const double channels =
      n * m.kv_heads * policy.select.channels * kIndexValueBytes * sparse * batch;
  const double rows = policy.select.top_k * row * sparse * batch;
  bytes.pcie_rows = rows;
  bytes.host = rows;
  // Rows are written to device memory and read again.
  bytes.device += batch * (n * codes * quantized + window * row * sparse) + 2 * rows;
  if (path == Path::kSketch) {
    bytes.device += channels;
    return bytes;
  }
  bytes.host += channels;
  (path == Path::kDevice ? bytes.pcie_channels : bytes.host_scoring) += channels;
  return bytes;
}

double SerialFloor(const StepBytes& bytes, const Ceilings& c) {
  return std::max({bytes.device / c.device_copy, bytes.pcie_channels / c.pinned_to_device,
                   bytes.host_scoring / c.host_read}) +
         bytes.pcie_rows / c.pinned_to_device;
}

double LinearWeights(const LlamaHyperparameters& m) {
  const double hidden = m.hidden, q = double{1} * m.q_heads * m.head_dim,
               kv = double{1} * m.kv_heads * m.head_dim;
  return m.layers * (2 * hidden * q + 2 * hidden * kv + 3 * hidden * m.ffn_hidden);
}

double PrefillFlops(const LlamaHyperparameters& m, int64_t tokens) {
  const auto n = static_cast<double>(tokens);
  return 2 * LinearWeights(m) * n + 2 * n * n * m.q_heads * m.head_dim * m.layers;
}

}  // namespace tailor::bench
