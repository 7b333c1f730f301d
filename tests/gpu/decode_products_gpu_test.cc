// Products of few rows on the device: each input meets its own weight, and a row's bits are its
// own.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/gpu/gpu_test.h"
#include "tests/gpu/product_tolerance.h"
#include "tests/worker/ops/weights_in_file.h"

namespace tailor {
namespace {

class DecodeProductsGpuTest : public GpuTest {};

// Each row of x is zero but for one input: the product is that weight times that input with all its
// 24 bits, whatever the order of inputs. Roundings: the sum's, two of the scale and the minimum
// each, and the weight's in the reference; a cut one counts twice.
TEST_F(DecodeProductsGpuTest, EveryInputMeetsItsWeightWithAllItsBits) {
  constexpr int64_t kOutputs = 20, kRows = 16;
  for (const DType dtype : kAllDTypes) {
    const int64_t cols = WholeBlocks(dtype, 288);  // 9 blocks of 32: no whole group
    const FileWeight file = RandomWeight(dtype, kOutputs, cols, 15);
    const Weight w = file.Load(*ops_);
    const HostMatrix sizes = Sizes(file), values = file.Values();
    for (int64_t first = 0; first < cols; first += kRows) {
      SCOPED_TRACE(absl::StrCat(std::string(DTypeName(dtype)), ", inputs from ", first));
      const HostMatrix inputs = RandomMatrix(1, kRows, 16 + first);
      HostMatrix x(kRows, cols), want(kRows, kOutputs);
      for (int64_t r = 0; r < kRows; ++r) {
        x.values[r * cols + first + r] = inputs.values[r];
        for (int64_t o = 0; o < kOutputs; ++o) {
          want.values[r * kOutputs + o] = inputs.values[r] * values.row(o)[first + r];
        }
      }
      const DeviceMatrix device_x(*ops_, x), out(*ops_, kRows, kOutputs);
      ops_->MatMul(device_x.view(), w, out.view());
      ExpectNear(out.Download(), want, [&](int64_t r, int64_t o) {
        return 10 * kEps * std::abs(inputs.values[r]) * sizes.row(o)[first + r] + 1e-30;
      });
      if (HasFatalFailure()) return;
    }
  }
}

// Also at another place among the others: a column of the tensor cores' is like another.
TEST_F(DecodeProductsGpuTest, ARowHasTheSameBitsAloneAndInEveryBatchOf2To16) {
  constexpr int64_t kOutputs = 35;
  for (const DType dtype : kAllDTypes) {
    const int64_t cols = WholeBlocks(dtype, 544);
    const HostMatrix x = RandomMatrix(16, cols, 13, 0.3f);
    const Weight w = RandomWeight(dtype, kOutputs, cols, 14).Load(*ops_);
    const auto run = [&](int64_t first, int64_t count) {
      HostMatrix part(count, cols);
      std::copy_n(x.row(first).data(), count * cols, part.values.data());
      const DeviceMatrix in(*ops_, part), out(*ops_, count, kOutputs);
      ops_->MatMul(in.view(), w, out.view());
      return out.Download();
    };
    const auto alone = run(5, 1).RowBits(0);
    for (int64_t count = 2; count <= 16; ++count) {
      const int64_t first = std::max<int64_t>(0, 6 - count);
      EXPECT_EQ(run(first, count).RowBits(5 - first), alone) << DTypeName(dtype) << " " << count;
    }
  }
}

// Rows as a step has them, aligned, are read where they lie; those of a DeviceMatrix are packed
// first.
TEST_F(DecodeProductsGpuTest, AlignedRowsAreReadInPlaceAndNotBeyondTheirEnd) {
  constexpr int64_t kOutputs = 35, kRows = 11, kBeside = 4;
  for (const DType dtype : kAllDTypes) {
    const int64_t cols = WholeBlocks(dtype, 160), stride = cols + kBeside;
    const HostMatrix x = RandomMatrix(kRows, cols, 22);
    const Weight w = RandomWeight(dtype, kOutputs, cols, 23).Load(*ops_);
    std::vector<float> host(kRows * stride, std::numeric_limits<float>::quiet_NaN());
    for (int64_t r = 0; r < kRows; ++r) {
      std::copy_n(x.row(r).data(), cols, host.data() + r * stride);
    }
    const DeviceBuffer memory = *ops_->Allocate(static_cast<int64_t>(host.size() * sizeof(float)));
    ops_->Upload(std::as_bytes(std::span(host)), memory.data());
    const DeviceMatrix packed(*ops_, x), want(*ops_, kRows, kOutputs), out(*ops_, kRows, kOutputs);
    ops_->MatMul(packed.view(), w, want.view());
    ops_->MatMul({memory.As<float>(), kRows, cols, stride}, w, out.view());
    EXPECT_EQ(out.Download().values, want.Download().values) << DTypeName(dtype);
  }
}

// One tile a block for few outputs, two for many.
TEST_F(DecodeProductsGpuTest, AnOutputHasTheSameBitsAmongFewAndAmongMany) {
  constexpr int64_t kCols = 96, kMany = 3850, kFew = 41;
  for (const DType dtype : {DType::kBF16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_1}) {
    FileWeight many = RandomWeight(dtype, kMany, kCols, 17), few = many;
    few.rows = kFew;
    few.bytes.erase(few.bytes.begin(),
                    few.bytes.end() - kFew * (many.bytes.size() / static_cast<size_t>(kMany)));
    const Weight w = many.Load(*ops_), part = few.Load(*ops_);
    for (const int64_t rows : {3, 16}) {
      const DeviceMatrix x(*ops_, RandomMatrix(rows, kCols, 18));
      const DeviceMatrix out(*ops_, rows, kMany), want(*ops_, rows, kFew);
      ops_->MatMul(x.view(), w, out.view());
      ops_->MatMul(x.view(), part, want.view());
      const HostMatrix got = out.Download(), last = want.Download();
      for (int64_t r = 0; r < rows; ++r) {
        const std::vector<float> tail(got.row(r).end() - kFew, got.row(r).end());
        EXPECT_EQ(tail, std::vector<float>(last.row(r).begin(), last.row(r).end()))
            << DTypeName(dtype) << ", " << rows << " rows, row " << r;
      }
    }
  }
}

// Sequences of a batch know nothing of one another, also when one of them has gone wrong.
TEST_F(DecodeProductsGpuTest, ARowOfNaNLeavesTheOthersAsTheyAre) {
  constexpr int64_t kOutputs = 33;
  for (const DType dtype : kAllDTypes) {
    const int64_t cols = WholeBlocks(dtype, 96);
    const Weight w = RandomWeight(dtype, kOutputs, cols, 19).Load(*ops_);
    const Weight up = RandomWeight(dtype, kOutputs, cols, 20).Load(*ops_);
    for (const int64_t rows : {2, 8, 11}) {
      const HostMatrix x = RandomMatrix(rows, cols, 21);
      HostMatrix bad = x;
      std::fill_n(bad.values.begin() + cols, cols, std::numeric_limits<float>::quiet_NaN());
      const auto run = [&](const HostMatrix& in) {
        const DeviceMatrix device_x(*ops_, in), product(*ops_, rows, kOutputs);
        const DeviceMatrix gated(*ops_, rows, kOutputs);
        ops_->MatMul(device_x.view(), w, product.view());
        ops_->SwiGlu(device_x.view(), w, up, gated.view());
        return std::pair(product.Download(), gated.Download());
      };
      const auto clean = run(x), got = run(bad);
      for (int64_t r = 0; r < rows; ++r) {
        if (r == 1) {
          EXPECT_TRUE(std::isnan(got.first.row(r)[0]) && std::isnan(got.second.row(r)[0]));
          continue;
        }
        EXPECT_EQ(got.first.RowBits(r), clean.first.RowBits(r)) << DTypeName(dtype);
        EXPECT_EQ(got.second.RowBits(r), clean.second.RowBits(r)) << DTypeName(dtype);
      }
    }
  }
}

}  // namespace
}  // namespace tailor
