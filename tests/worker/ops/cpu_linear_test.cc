// Matrix products and SwiGlu against their references, for every dtype and odd shapes.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/worker/ops/op_test.h"
#include "tests/worker/ops/weights_in_file.h"
#include "worker/ops/reference.h"

namespace tailor {
namespace {

class LinearTest : public OpTest {};
INSTANTIATE_AT_EVERY_SIMD_LEVEL(LinearTest);

struct Shape {
  int64_t outputs, cols;
};

// Inputs that fill no vector, and outputs that fill no group of 16 and no panel of 32; block
// formats need inputs in 32s or 256s.
std::vector<Shape> ShapesOf(DType dtype) {
  if (BlockValues(dtype) == 256) return {{1, 256}, {16, 512}, {17, 256}, {33, 768}, {100, 256}};
  std::vector<Shape> shapes = {{1, 32}, {16, 64}, {17, 96}, {33, 32}, {100, 160}, {144, 64}};
  if (BlockValues(dtype) == 1) {
    shapes.insert(shapes.end(), {{7, 1}, {50, 7}, {20, 33}, {65, 100}});
  }
  return shapes;
}

constexpr int64_t kRowCounts[] = {1, 2, 5, 17, 33};

HostMatrix Abs(HostMatrix matrix) {
  for (float& value : matrix.values) value = std::abs(value);
  return matrix;
}

HostMatrix Product(HostMatrix x, HostMatrix w) {
  HostMatrix out(x.rows, w.rows);
  MatMulRef(x.view(), w.view(), out.view());
  return out;
}

// A sum of n products: at most n + 1 roundings on the way of each term (a chain of n fused or of n
// products and n sums), one more of the reference's result; of the terms' magnitudes.
double SumTolerance(int64_t n, double magnitude) {
  return static_cast<double>(n + 2) * kEps * magnitude;
}

TEST_P(LinearTest, MatMulIsItsReferenceWithinTheRoundingsOfItsSum) {
  for (const DType dtype : kAllDTypes) {
    for (const Shape shape : ShapesOf(dtype)) {
      const FileWeight file = RandomWeight(dtype, shape.outputs, shape.cols, 1);
      const Weight w = file.Load(*ops_);
      for (const int64_t rows : kRowCounts) {
        SCOPED_TRACE(absl::StrCat(std::string(DTypeName(dtype)), " ", shape.outputs, " x ",
                                  shape.cols, ", ", rows, " rows"));
        const HostMatrix x = RandomMatrix(rows, shape.cols, 2);
        const HostMatrix magnitude = Product(Abs(x), Abs(file.Values()));
        const DeviceMatrix device_x(*ops_, x), out(*ops_, rows, shape.outputs);
        ops_->MatMul(device_x.view(), w, out.view());
        ExpectNear(out.Download(), Product(x, file.Values()), [&](int64_t r, int64_t o) {
          return SumTolerance(shape.cols, magnitude.row(r)[o]);
        });
      }
    }
  }
}

// Every kernel's count of rows, and every remainder: alone, in passes of a few, in panels of 12.
TEST_P(LinearTest, ARowHasTheBitsThatItHasAlone) {
  constexpr int64_t kMostRows = 26;
  for (const DType dtype : kAllDTypes) {
    const int64_t cols = BlockValues(dtype) == 256 ? 512 : BlockValues(dtype) == 32 ? 96 : 77;
    const Weight w = RandomWeight(dtype, 85, cols, 21).Load(*ops_);
    const DeviceMatrix x(*ops_, RandomMatrix(kMostRows, cols, 22));
    const DeviceMatrix alone(*ops_, kMostRows, 85);
    for (int64_t r = 0; r < kMostRows; ++r) {
      ops_->MatMul(x.view().Rows(r, 1), w, alone.view().Rows(r, 1));
    }
    const HostMatrix want = alone.Download();
    for (int64_t rows = 2; rows <= kMostRows; ++rows) {
      const DeviceMatrix out(*ops_, rows, 85);
      ops_->MatMul(x.view().Rows(0, rows), w, out.view());
      const HostMatrix got = out.Download();
      EXPECT_TRUE(std::equal(got.values.begin(), got.values.end(), want.values.begin()))
          << DTypeName(dtype) << ", " << rows << " rows";
    }
  }
}

TEST_P(LinearTest, MatMulAddAddsTheProductOfMatMulWithOneRounding) {
  for (const int64_t rows : kRowCounts) {
    const FileWeight file = RandomWeight(DType::kQ8_0, 37, 64, 3);
    const Weight w = file.Load(*ops_);
    const HostMatrix x = RandomMatrix(rows, 64, 4), base = RandomMatrix(rows, 37, 5);
    const DeviceMatrix device_x(*ops_, x), product(*ops_, rows, 37), out(*ops_, base);
    ops_->MatMul(device_x.view(), w, product.view());
    ops_->MatMulAdd(device_x.view(), w, out.view());
    HostMatrix want = product.Download();
    for (size_t i = 0; i < want.values.size(); ++i)
      want.values[i] = base.values[i] + want.values[i];
    EXPECT_EQ(out.Download().values, want.values) << rows << " rows";
  }
}

TEST_P(LinearTest, MatMulAddIsItsReferenceWithinTheRoundingsOfItsSum) {
  const FileWeight file = RandomWeight(DType::kQ4_1, 37, 64, 3);
  HostMatrix x = RandomMatrix(5, 64, 4), want = RandomMatrix(5, 37, 5), values = file.Values();
  const HostMatrix base = Abs(want), magnitude = Product(Abs(x), Abs(values));
  const DeviceMatrix device_x(*ops_, x), out(*ops_, want);
  MatMulAddRef(x.view(), values.view(), want.view());
  ops_->MatMulAdd(device_x.view(), file.Load(*ops_), out.view());
  ExpectNear(out.Download(), want, [&](int64_t r, int64_t o) {
    return SumTolerance(64 + 1, magnitude.row(r)[o] + base.row(r)[o]);
  });
}

TEST_P(LinearTest, ProjectQkvIsThreeMatMulsBitForBit) {
  for (const int64_t rows : kRowCounts) {
    const Weight wq = RandomWeight(DType::kQ4_1, 100, 96, 6).Load(*ops_);
    const Weight wk = RandomWeight(DType::kQ8_0, 33, 96, 7).Load(*ops_);
    const Weight wv = RandomWeight(DType::kF16, 17, 96, 8).Load(*ops_);
    const DeviceMatrix x(*ops_, RandomMatrix(rows, 96, 9));
    const DeviceMatrix q(*ops_, rows, 100), k(*ops_, rows, 33), v(*ops_, rows, 17);
    ops_->ProjectQkv(x.view(), wq, wk, wv, q.view(), k.view(), v.view());
    const std::pair<const Weight*, const DeviceMatrix*> parts[] = {{&wq, &q}, {&wk, &k}, {&wv, &v}};
    for (const auto& [weight, got] : parts) {
      const DeviceMatrix want(*ops_, rows, weight->rows);
      ops_->MatMul(x.view(), *weight, want.view());
      EXPECT_EQ(got->Download().values, want.Download().values) << rows;
    }
  }
}

// With a = x gate^T off by da and u = x up^T off by du: |silu'| <= 1.1, and silu itself has a sum,
// a quotient, a product and an exponential of 2 ulp (4 roundings).
void ExpectSwiGlu(Backend& ops, const FileWeight& gate, const FileWeight& up, HostMatrix x) {
  HostMatrix gate_values = gate.Values(), up_values = up.Values(), want(x.rows, gate.rows);
  SwiGluRef(x.view(), gate_values.view(), up_values.view(), want.view());
  const HostMatrix a = Product(x, gate_values), a_magnitude = Product(Abs(x), Abs(gate_values));
  const HostMatrix u = Product(x, up_values), u_magnitude = Product(Abs(x), Abs(up_values));
  const DeviceMatrix device_x(ops, x), out(ops, x.rows, gate.rows);
  ops.SwiGlu(device_x.view(), gate.Load(ops), up.Load(ops), out.view());
  ExpectNear(out.Download(), want, [&](int64_t r, int64_t o) {
    const double da = SumTolerance(x.cols, a_magnitude.row(r)[o]);
    const double du = SumTolerance(x.cols, u_magnitude.row(r)[o]);
    const double silu = std::abs(a.row(r)[o] / (1 + std::exp(-double{a.row(r)[o]})));
    return 1.1 * da * (std::abs(u.row(r)[o]) + du) + silu * du +
           8 * kEps * silu * std::abs(u.row(r)[o]) + std::numeric_limits<float>::min();
  });
}

TEST_P(LinearTest, SwiGluIsItsReferenceWithinTheRoundingsOfItsSums) {
  for (const DType dtype : kAllDTypes) {
    for (const Shape shape :
         {Shape{17, WholeBlocks(dtype, 96)}, Shape{100, WholeBlocks(dtype, 64)}}) {
      const FileWeight gate = RandomWeight(dtype, shape.outputs, shape.cols, 10);
      const FileWeight up = RandomWeight(dtype, shape.outputs, shape.cols, 11);
      for (const int64_t rows : kRowCounts) {
        SCOPED_TRACE(absl::StrCat(std::string(DTypeName(dtype)), ", ", rows, " rows"));
        ExpectSwiGlu(*ops_, gate, up, RandomMatrix(rows, shape.cols, 12, 0.2f));
      }
    }
  }
}

// e^-a leaves the range of float at a = -88.7: silu is then a negligible negative number, never a.
TEST_P(LinearTest, SiluOfAVeryNegativeNumberIsNegligible) {
  const FileWeight one = {
      DType::kF32, 1, 1, {std::byte{0}, std::byte{0}, std::byte{0x80}, std::byte{0x3f}}};
  for (const int64_t rows : {1, 2}) {
    for (const float a :
         {-80.0f, -87.0f, -88.5f, -89.0f, -90.0f, -104.0f, -200.0f, -1e4f, -1e30f}) {
      HostMatrix x(rows, 1);
      std::fill(x.values.begin(), x.values.end(), a);
      const DeviceMatrix device_x(*ops_, x), out(*ops_, rows, 1);
      ops_->SwiGlu(device_x.view(), one.Load(*ops_), one.Load(*ops_), out.view());
      // silu(a) * a <= a^2 e^a, below 2e-31 from -80 on.
      EXPECT_LE(std::abs(out.Download().values[0]), 2e-31f) << "silu(" << a << ") * " << a;
    }
  }
}

// decisions/0003: one row, five rows and 512 run the same chain, whoever computes it.
TEST_P(LinearTest, ARowIsTheSameAloneInABatchAndAtAnyThreadCount) {
  constexpr int64_t kRows = 512, kOutputs = 72;
  for (const DType dtype : kAllDTypes) {
    const int64_t cols = WholeBlocks(dtype, 96);
    const HostMatrix x = RandomMatrix(kRows, cols, 13, 0.3f);
    const FileWeight file = RandomWeight(dtype, kOutputs, cols, 14);
    const FileWeight up = RandomWeight(dtype, kOutputs, cols, 15);
    const auto run = [&](Backend& ops, int64_t first, int64_t count) {
      HostMatrix part(count, cols);
      std::copy_n(x.row(first).data(), count * cols, part.values.data());
      const DeviceMatrix in(ops, part), gated(ops, count, kOutputs);
      ops.SwiGlu(in.view(), file.Load(ops), up.Load(ops), gated.view());
      ops.MatMulAdd(in.view(), file.Load(ops), gated.view());
      return gated.Download();
    };
    const HostMatrix want = run(*ops_, 0, kRows);
    for (const int threads : {1, 2, 3}) {
      SCOPED_TRACE(absl::StrCat(std::string(DTypeName(dtype)), ", ", threads, " threads"));
      const auto ops = MakeBackend(threads);
      EXPECT_EQ(run(*ops, 0, kRows).values, want.values);
      for (const int64_t r : {0, 203, 511}) {
        EXPECT_EQ(run(*ops, r, 1).RowBits(0), want.RowBits(r)) << "row " << r;
      }
      const HostMatrix five = run(*ops, 200, 5);
      for (int64_t i = 0; i < 5; ++i) EXPECT_EQ(five.RowBits(i), want.RowBits(200 + i));
    }
  }
}

}  // namespace
}  // namespace tailor
