// The references that work token by token: RmsNormRef, AddBiasRef, RopeRef, WriteRowsRef.
#include <cmath>
#include <numbers>

#include "worker/ops/reference.h"

namespace tailor {
namespace {

// Radians a position of channel pair i.
double PairFrequency(const LlamaHyperparameters& model, int32_t i) {
  const RopeScaling& scaling = model.rope_scaling;
  const double f = std::pow(static_cast<double>(model.rope_theta), -2.0 * i / model.head_dim);
  if (scaling.kind == RopeScaling::Kind::kNone) return f;
  if (scaling.kind == RopeScaling::Kind::kLinear) return f / scaling.factor;
  const double turns = static_cast<double>(scaling.original_context) * f / (2 * std::numbers::pi);
  const double low = scaling.low_freq_factor, high = scaling.high_freq_factor;
  if (turns > high) return f;
  if (turns < low) return f / scaling.factor;
  const double kept = (turns - low) / (high - low);
  return kept * f + (1 - kept) * (f / scaling.factor);
}

}  // namespace

void RmsNormRef(MatrixView<const float> x, std::span<const float> gain, float eps,
                MatrixView<float> out) {
  for (int64_t r = 0; r < x.rows; ++r) {
    double squares = 0;
    for (const float value : x.row(r)) squares += static_cast<double>(value) * value;
    const double rms = std::sqrt(squares / static_cast<double>(x.cols) + eps);
    for (int64_t c = 0; c < x.cols; ++c) out(r, c) = static_cast<float>(x(r, c) / rms * gain[c]);
  }
}

void AddBiasRef(std::span<const float> bias, MatrixView<float> x) {
  for (int64_t r = 0; r < x.rows; ++r) {
    for (int64_t c = 0; c < x.cols; ++c) x(r, c) += bias[c];
  }
}

void RopeRef(std::span<const int32_t> positions, const LlamaHyperparameters& model,
             MatrixView<float> x) {
  const int32_t pairs = model.head_dim / 2;
  const bool interleaved = model.rope_layout == RopeLayout::kInterleaved;
  for (int64_t r = 0; r < x.rows; ++r) {
    for (int64_t head = 0; head < x.cols; head += model.head_dim) {
      for (int32_t i = 0; i < pairs; ++i) {
        float& a = x(r, head + (interleaved ? 2 * i : i));
        float& b = x(r, head + (interleaved ? 2 * i + 1 : i + pairs));
        const double angle = positions[r] * PairFrequency(model, i);
        const double old_a = a, old_b = b;
        a = static_cast<float>(old_a * std::cos(angle) - old_b * std::sin(angle));
        b = static_cast<float>(old_a * std::sin(angle) + old_b * std::cos(angle));
      }
    }
  }
}

void WriteRowsRef(MatrixView<const float> k, MatrixView<const float> v,
                  std::span<BFloat16* const> rows, int32_t head_dim) {
  const int64_t kv_heads = k.cols / head_dim;
  for (int64_t i = 0; i < k.rows; ++i) {
    for (int64_t head = 0; head < kv_heads; ++head) {
      for (int32_t c = 0; c < head_dim; ++c) {
        BFloat16* row = rows[i * kv_heads + head];
        row[c] = ToBFloat16(k(i, head * head_dim + c));
        row[head_dim + c] = ToBFloat16(v(i, head * head_dim + c));
      }
    }
  }
}

}  // namespace tailor
