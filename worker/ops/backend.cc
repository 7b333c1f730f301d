#include "worker/ops/backend.h"

#include <cmath>
#include <numbers>

#include "common/status.h"

namespace tailor {

DeviceBuffer::DeviceBuffer(DeviceBuffer&& other) noexcept
    : backend_(std::exchange(other.backend_, nullptr)),
      data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)) {}

DeviceBuffer& DeviceBuffer::operator=(DeviceBuffer&& other) noexcept {
  if (this != &other) {
    if (backend_ != nullptr) backend_->Free(data_, bytes_);
    backend_ = std::exchange(other.backend_, nullptr);
    data_ = std::exchange(other.data_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
  }
  return *this;
}

DeviceBuffer::~DeviceBuffer() {
  if (backend_ != nullptr) backend_->Free(data_, bytes_);
}

namespace {

// Angular frequency of pair i after scaling. Llama-3's rule keeps high frequencies, divides low ones
// by `factor`, and blends between: the published formula of the model's reference code.
double ScaledFrequency(double frequency, const RopeScaling& scaling) {
  switch (scaling.kind) {
    case RopeScaling::Kind::kNone: return frequency;
    case RopeScaling::Kind::kLinear: return frequency / scaling.factor;
    case RopeScaling::Kind::kLlama3: break;
  }
  const double wavelength = 2 * std::numbers::pi / frequency;
  const auto original = static_cast<double>(scaling.original_context);
  if (wavelength < original / scaling.high_freq_factor) return frequency;
  if (wavelength > original / scaling.low_freq_factor) return frequency / scaling.factor;
  const double smooth = (original / wavelength - scaling.low_freq_factor) /
                        (scaling.high_freq_factor - scaling.low_freq_factor);
  return (1 - smooth) * frequency / scaling.factor + smooth * frequency;
}

}  // namespace

absl::StatusOr<RopeTable> Backend::MakeRopeTable(const LlamaHyperparameters& model,
                                                 int64_t positions) {
  const int32_t pairs = model.head_dim / 2;
  std::vector<float> table(positions * pairs * 2);
  for (int32_t i = 0; i < pairs; ++i) {
    const double frequency =
        ScaledFrequency(std::pow(static_cast<double>(model.rope_theta), -2.0 * i / model.head_dim),
                        model.rope_scaling);
    for (int64_t p = 0; p < positions; ++p) {
      const double angle = static_cast<double>(p) * frequency;
      table[(p * pairs + i) * 2] = static_cast<float>(std::cos(angle));
      table[(p * pairs + i) * 2 + 1] = static_cast<float>(std::sin(angle));
    }
  }
  RopeTable out;
  TS_ASSIGN_OR_RETURN(out.cos_sin, Allocate(RopeTable::Bytes(model.head_dim, positions)));
  Upload(std::as_bytes(std::span(table)), out.cos_sin.data());
  out.positions = positions;
  out.head_dim = model.head_dim;
  out.layout = model.rope_layout;
  return out;
}

void Backend::RopeAndWriteRows(std::span<const int32_t> positions, const RopeTable& table,
                               MatrixView<float> q, MatrixView<float> k, MatrixView<const float> v,
                               std::span<BFloat16* const> rows,
                               std::span<BFloat16* const> more_rows) {
  Rope(positions, table, q);
  Rope(positions, table, k);
  WriteRows(k, v, rows, table.head_dim);
  WriteRows(k, v, more_rows, table.head_dim);
}

}  // namespace tailor
