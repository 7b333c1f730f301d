// What the tests of a backend's ops share: backends at every SIMD level of this machine, device
// matrices that are poisoned and guarded, random inputs, and the unit of every tolerance.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "common/bfloat16.h"
#include "common/cpu/simd_level.h"
#include "common/matrix_view.h"
#include "worker/ops/backend.h"

namespace tailor {

// Unit roundoff of float: one rounding is off by at most this share. n roundings in a chain are off
// by at most n * kEps (to first order, which is all these lengths need).
inline constexpr double kEps = 0x1p-24;

inline std::vector<SimdLevel> LevelsHere() {
  std::vector<SimdLevel> levels;
  for (const SimdLevel level : {SimdLevel::kScalar, SimdLevel::kAvx2, SimdLevel::kAvx512}) {
    if (level <= DetectSimdLevel()) levels.push_back(level);
  }
  return levels;
}

// A test of one op at one SIMD level.
class OpTest : public ::testing::TestWithParam<SimdLevel> {
 protected:
  static std::unique_ptr<Backend> MakeBackend(int threads = 1) {
    auto backend = MakeCpuBackend({.threads = threads, .max_simd_level = GetParam()});
    TS_CHECK(backend.ok());
    return *std::move(backend);
  }
  std::unique_ptr<Backend> ops_ = MakeBackend();
};

#define INSTANTIATE_AT_EVERY_SIMD_LEVEL(suite)        \
  INSTANTIATE_TEST_SUITE_P(                           \
      Simd, suite, ::testing::ValuesIn(LevelsHere()), \
      [](const ::testing::TestParamInfo<SimdLevel>& i) { return std::string(ToString(i.param)); })

struct HostMatrix {
  int64_t rows = 0, cols = 0;
  std::vector<float> values;  // [rows][cols]

  HostMatrix(int64_t rows_in, int64_t cols_in)
      : rows(rows_in), cols(cols_in), values(rows_in * cols_in) {}
  MatrixView<float> view() { return {values.data(), rows, cols}; }
  std::span<const float> row(int64_t r) const {
    return {values.data() + r * cols, static_cast<size_t>(cols)};
  }
  // The bits of a row: equal means equal bit for bit, NaN included.
  std::vector<uint32_t> RowBits(int64_t r) const {
    std::vector<uint32_t> bits(cols);
    std::memcpy(bits.data(), values.data() + r * cols, cols * sizeof(float));
    return bits;
  }
};

// A matrix in a backend's memory with a stride of its own. All of it is NaN at first, so that an
// element an op leaves out, or one it writes beside the matrix, shows.
class DeviceMatrix {
 public:
  DeviceMatrix(Backend& ops, int64_t rows, int64_t cols)
      : ops_(&ops), rows_(rows), cols_(cols), stride_(cols + kGuard) {
    auto buffer = ops.Allocate(rows * stride_ * static_cast<int64_t>(sizeof(float)));
    TS_CHECK(buffer.ok());
    buffer_ = *std::move(buffer);
    const std::vector<float> poison(rows * stride_, std::numeric_limits<float>::quiet_NaN());
    ops.Upload(std::as_bytes(std::span(poison)), buffer_.data());
  }
  DeviceMatrix(Backend& ops, const HostMatrix& host) : DeviceMatrix(ops, host.rows, host.cols) {
    for (int64_t r = 0; r < rows_; ++r) {
      ops.Upload(std::as_bytes(host.row(r)), buffer_.As<float>() + r * stride_);
    }
  }

  MatrixView<float> view() const { return {buffer_.As<float>(), rows_, cols_, stride_}; }

  HostMatrix Download() const {
    std::vector<float> all(rows_ * stride_);
    ops_->Download(buffer_.data(), std::as_writable_bytes(std::span(all)));
    HostMatrix host(rows_, cols_);
    for (int64_t r = 0; r < rows_; ++r) {
      std::memcpy(host.values.data() + r * cols_, all.data() + r * stride_, cols_ * sizeof(float));
      for (int64_t c = cols_; c < stride_; ++c) {
        EXPECT_TRUE(std::isnan(all[r * stride_ + c])) << "written beside row " << r << ", at " << c;
      }
    }
    return host;
  }

 private:
  static constexpr int64_t kGuard = 3;  // odd: rows are not aligned to vectors
  Backend* ops_;
  int64_t rows_, cols_, stride_;
  DeviceBuffer buffer_;
};

inline HostMatrix RandomMatrix(int64_t rows, int64_t cols, uint64_t seed, float scale = 1) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, scale);
  HostMatrix matrix(rows, cols);
  for (float& value : matrix.values) value = normal(random);
  return matrix;
}

inline std::vector<BFloat16> RandomRows(int64_t tokens, int32_t head_dim, uint64_t seed,
                                        float scale = 1) {
  std::vector<BFloat16> rows;
  for (const float value : RandomMatrix(tokens, 2 * head_dim, seed, scale).values) {
    rows.push_back(ToBFloat16(value));
  }
  return rows;
}

// Every element of `got` within `tolerance(r, c)` of `want`; a NaN is never within anything.
template <typename Tolerance>
void ExpectNear(const HostMatrix& got, const HostMatrix& want, Tolerance tolerance) {
  ASSERT_EQ(got.values.size(), want.values.size());
  for (int64_t r = 0; r < want.rows; ++r) {
    for (int64_t c = 0; c < want.cols; ++c) {
      const double g = got.row(r)[c], w = want.row(r)[c], allowed = tolerance(r, c);
      ASSERT_TRUE(std::abs(g - w) <= allowed)
          << "row " << r << " column " << c << ": got " << g << ", want " << w << ", off by "
          << g - w << ", allowed " << allowed;
    }
  }
}

}  // namespace tailor
