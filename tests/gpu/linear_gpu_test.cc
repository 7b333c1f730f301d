// Products, SwiGlu and pointwise ops on the device against their references.
#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/gpu/gpu_test.h"
#include "tests/gpu/product_tolerance.h"
#include "tests/worker/ops/weights_in_file.h"
#include "worker/ops/reference.h"

namespace tailor {
namespace {

class LinearGpuTest : public GpuTest {};

struct Shape {
  int64_t outputs, cols;
};

// Outputs that fill no block and no tile of 128, inputs that fill no step of 32.
std::vector<Shape> ShapesOf(DType dtype) {
  if (BlockValues(dtype) == 256) return {{1, 256}, {17, 768}, {130, 512}, {257, 1280}};
  std::vector<Shape> shapes = {{1, 32}, {17, 96}, {130, 64}, {257, 544}, {100, 4128}};
  if (BlockValues(dtype) == 1) shapes.insert(shapes.end(), {{7, 1}, {50, 7}, {20, 33}, {133, 100}});
  return shapes;
}

constexpr int64_t kRowCounts[] = {1, 2, 3, 5, 8, 9, 16, 17, 33, 128, 150};

TEST_F(LinearGpuTest, MatMulIsItsReferenceForEveryFormatShapeAndBatch) {
  for (const DType dtype : kAllDTypes) {
    for (const Shape shape : ShapesOf(dtype)) {
      const FileWeight file = RandomWeight(dtype, shape.outputs, shape.cols, 1);
      const Weight w = file.Load(*ops_);
      for (const int64_t rows : kRowCounts) {
        SCOPED_TRACE(absl::StrCat(std::string(DTypeName(dtype)), " ", shape.outputs, " x ",
                                  shape.cols, ", ", rows, " rows"));
        const HostMatrix x = RandomMatrix(rows, shape.cols, 2);
        const HostMatrix magnitude = Product(Abs(x), Sizes(file));
        const DeviceMatrix device_x(*ops_, x), out(*ops_, rows, shape.outputs);
        ops_->MatMul(device_x.view(), w, out.view());
        ExpectNear(out.Download(), Product(x, file.Values()), [&](int64_t r, int64_t o) {
          return SumTolerance(dtype, rows, shape.cols, magnitude.row(r)[o]);
        });
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_F(LinearGpuTest, MatMulAddAddsTheProductOfMatMulWithOneRounding) {
  for (const DType dtype : {DType::kBF16, DType::kQ4_1}) {
    for (const int64_t rows : {1, 8, 16, 40}) {
      const FileWeight file = RandomWeight(dtype, 37, 64, 3);
      const Weight w = file.Load(*ops_);
      const HostMatrix x = RandomMatrix(rows, 64, 4), base = RandomMatrix(rows, 37, 5);
      const DeviceMatrix device_x(*ops_, x), product(*ops_, rows, 37), out(*ops_, base);
      ops_->MatMul(device_x.view(), w, product.view());
      ops_->MatMulAdd(device_x.view(), w, out.view());
      HostMatrix want = product.Download();
      for (size_t i = 0; i < want.values.size(); ++i) {
        want.values[i] = base.values[i] + want.values[i];
      }
      EXPECT_EQ(out.Download().values, want.values) << rows << " rows";
    }
  }
}

TEST_F(LinearGpuTest, ProjectQkvIsThreeMatMulsBitForBitAlsoOfMixedFormats) {
  const std::pair<DType, DType> formats[] = {{DType::kQ4_1, DType::kQ4_1},
                                             {DType::kQ4_1, DType::kF16},
                                             {DType::kQ4_K, DType::kQ6_K}};  // a Q4_K_M file's
  for (const auto& [dtype, of_v] : formats) {
    const int64_t cols = WholeBlocks(dtype, 96);
    for (const int64_t rows : {1, 7, 16, 33}) {
      const Weight wq = RandomWeight(dtype, 100, cols, 6).Load(*ops_);
      const Weight wk = RandomWeight(dtype, 33, cols, 7).Load(*ops_);
      const Weight wv = RandomWeight(of_v, 17, cols, 8).Load(*ops_);
      const DeviceMatrix x(*ops_, RandomMatrix(rows, cols, 9));
      const DeviceMatrix q(*ops_, rows, 100), k(*ops_, rows, 33), v(*ops_, rows, 17);
      ops_->ProjectQkv(x.view(), wq, wk, wv, q.view(), k.view(), v.view());
      const std::pair<const Weight*, const DeviceMatrix*> parts[] = {
          {&wq, &q}, {&wk, &k}, {&wv, &v}};
      for (const auto& [weight, got] : parts) {
        const DeviceMatrix want(*ops_, rows, weight->rows);
        ops_->MatMul(x.view(), *weight, want.view());
        EXPECT_EQ(got->Download().values, want.Download().values) << rows;
      }
    }
  }
}

// As tests/worker/ops/cpu_linear_test.cc: |silu'| <= 1.1 carries the error of the gate's sum.
TEST_F(LinearGpuTest, SwiGluIsItsReferenceWithinTheRoundingsOfItsSums) {
  for (const DType dtype : kAllDTypes) {
    const int64_t cols = WholeBlocks(dtype, 96);
    const FileWeight gate = RandomWeight(dtype, 101, cols, 10),
                     up = RandomWeight(dtype, 101, cols, 11);
    for (const int64_t rows : {1, 5, 16, 17, 140}) {
      SCOPED_TRACE(absl::StrCat(std::string(DTypeName(dtype)), ", ", rows, " rows"));
      HostMatrix x = RandomMatrix(rows, cols, 12, 0.2f), want(rows, 101);
      HostMatrix gate_values = gate.Values(), up_values = up.Values();
      SwiGluRef(x.view(), gate_values.view(), up_values.view(), want.view());
      const HostMatrix a = Product(x, gate_values), a_size = Product(Abs(x), Sizes(gate));
      const HostMatrix u = Product(x, up_values), u_size = Product(Abs(x), Sizes(up));
      const DeviceMatrix device_x(*ops_, x), out(*ops_, rows, 101);
      ops_->SwiGlu(device_x.view(), gate.Load(*ops_), up.Load(*ops_), out.view());
      ExpectNear(out.Download(), want, [&](int64_t r, int64_t o) {
        const double da = SumTolerance(dtype, rows, cols, a_size.row(r)[o]);
        const double du = SumTolerance(dtype, rows, cols, u_size.row(r)[o]);
        const double silu = std::abs(a.row(r)[o] / (1 + std::exp(-double{a.row(r)[o]})));
        return 1.1 * da * (std::abs(u.row(r)[o]) + du) + silu * du +
               8 * kEps * silu * std::abs(u.row(r)[o]) + std::numeric_limits<float>::min();
      });
    }
  }
}

// Rows of up to 16 share one chain, rows of more another: bits may differ only between the two.
// What a device's cuBLASLt does is told by blas_gpu_test; the fake one is held to it.
TEST_F(LinearGpuTest, ARowHasTheSameBitsInEveryBatchOfItsKind) {
  if (!TestsRunOn("emulator")) {
    const BlasLibrary none("off");
    ops_ = *MakeTestedBackend();
  }
  constexpr int64_t kOutputs = 70;
  for (const DType dtype : kAllDTypes) {
    const int64_t cols = WholeBlocks(dtype, 192);
    const HostMatrix x = RandomMatrix(300, cols, 13, 0.3f);
    const Weight w = RandomWeight(dtype, kOutputs, cols, 14).Load(*ops_);
    const auto run = [&](int64_t first, int64_t count) {
      HostMatrix part(count, cols);
      std::copy_n(x.row(first).data(), count * cols, part.values.data());
      const DeviceMatrix in(*ops_, part), out(*ops_, count, kOutputs);
      ops_->MatMul(in.view(), w, out.view());
      return out.Download();
    };
    const auto alone = run(5, 1).RowBits(0), many = run(0, 300).RowBits(5);
    for (const int64_t count : {6, 9, 16}) EXPECT_EQ(run(0, count).RowBits(5), alone) << count;
    for (const int64_t count : {17, 130}) EXPECT_EQ(run(0, count).RowBits(5), many) << count;
  }
}

class PointwiseGpuTest : public GpuTest {};

TEST_F(PointwiseGpuTest, EmbedIsExact) {
  for (const DType dtype : kAllDTypes) {
    const int64_t cols = WholeBlocks(dtype, 96);
    const FileWeight file = RandomWeight(dtype, 50, cols, 1);
    HostMatrix table = file.Values(), want(6, cols);
    const std::vector<TokenId> tokens = {49, 0, 17, 17, 16, 15};
    EmbedRef(tokens, table.view(), want.view());
    const DeviceMatrix x(*ops_, 6, cols);
    ops_->Embed(tokens, file.Load(*ops_), x.view());
    EXPECT_EQ(x.Download().values, want.values) << DTypeName(dtype);
  }
}

TEST_F(PointwiseGpuTest, RmsNormIsItsReferenceWithinFourRoundings) {
  for (const int64_t hidden : {1, 7, 33, 576, 4096}) {
    const FileWeight gain = RandomWeight(DType::kF32, 1, hidden, 2);
    for (const int64_t rows : {1, 3, 33}) {
      HostMatrix x = RandomMatrix(rows, hidden, 3 + hidden), want(rows, hidden);
      if (rows > 1) {
        std::fill_n(x.values.begin(), hidden, 0.0f);
        for (int64_t c = 0; c < hidden; ++c) x.values[hidden + c] *= 1e30f;
      }
      RmsNormRef(x.view(), gain.Values().values, 1e-5f, want.view());
      const DeviceMatrix device_x(*ops_, x), out(*ops_, rows, hidden);
      ops_->RmsNorm(device_x.view(), gain.Load(*ops_), 1e-5f, out.view());
      ExpectNear(out.Download(), want,
                 [&](int64_t r, int64_t c) { return 4 * kEps * std::abs(want.row(r)[c]); });
    }
  }
}

TEST_F(PointwiseGpuTest, AddBiasIsItsReferenceExactly) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const int64_t n : {7, 256, 1536}) {
      const FileWeight bias = RandomWeight(dtype, 1, n, 2);
      for (const int64_t rows : {1, 33}) {
        HostMatrix want = RandomMatrix(rows, n, 3);
        const DeviceMatrix x(*ops_, want);
        AddBiasRef(bias.Values().values, want.view());
        ops_->AddBias(bias.Load(*ops_), x.view());
        EXPECT_EQ(x.Download().values, want.values) << DTypeName(dtype) << " " << n;
      }
    }
  }
}

TEST_F(PointwiseGpuTest, RopeIsItsReferenceWithinFourRoundings) {
  const std::vector<int32_t> positions = {0, 1, 127, 128, 4095, 2, 9999};
  for (const int32_t head_dim : {64, 128}) {
    for (const RopeLayout layout : {RopeLayout::kHalf, RopeLayout::kInterleaved}) {
      LlamaHyperparameters model;
      model.head_dim = head_dim;
      model.rope_theta = 500000;
      model.rope_layout = layout;
      HostMatrix x = RandomMatrix(7, 3 * head_dim, 4), want = x;
      RopeRef(positions, model, want.view());
      const DeviceMatrix device_x(*ops_, x);
      const RopeTable table = *ops_->MakeRopeTable(model, 10000);
      ops_->Rope(positions, table, device_x.view());
      ExpectNear(device_x.Download(), want, [&](int64_t r, int64_t c) {
        const int64_t head = c / head_dim * head_dim, i = c % head_dim, half = head_dim / 2;
        const int64_t other = layout == RopeLayout::kHalf ? (i + half) % head_dim : i ^ 1;
        return 4 * kEps * (std::abs(x.row(r)[c]) + std::abs(x.row(r)[head + other]));
      });
    }
  }
}

TEST_F(PointwiseGpuTest, WriteRowsRoundsToNearestAndTouchesItsRowsOnly) {
  constexpr int64_t kTokens = 17, kHeads = 3;
  for (const int32_t dim : {64, 128}) {
    const HostMatrix k = RandomMatrix(kTokens, kHeads * dim, 5);
    const HostMatrix v = RandomMatrix(kTokens, kHeads * dim, 6);
    const DeviceMatrix device_k(*ops_, k), device_v(*ops_, v);
    const int64_t slots = 2 * kTokens * kHeads;  // rows in reverse, a gap of one between two
    const std::vector<BFloat16> blank(slots * 2 * dim, BFloat16{0x7fc1});
    std::vector<BFloat16> want = blank, got = blank;
    const DeviceBuffer memory = *ops_->Allocate(static_cast<int64_t>(blank.size() * 2));
    ops_->Upload(std::as_bytes(std::span(blank)), memory.data());
    std::vector<BFloat16*> want_rows, device_rows;
    for (int64_t i = 0; i < kTokens * kHeads; ++i) {
      const int64_t at = (slots - 2 - 2 * i) * 2 * dim;
      want_rows.push_back(want.data() + at);
      device_rows.push_back(memory.As<BFloat16>() + at);
    }
    HostMatrix host_k = k, host_v = v;
    WriteRowsRef(host_k.view(), host_v.view(), want_rows, dim);
    ops_->WriteRows(device_k.view(), device_v.view(), device_rows, dim);
    ops_->Download(memory.data(), std::as_writable_bytes(std::span(got)));
    EXPECT_EQ(got, want) << dim;
  }
}

// q, k, and the rows of both places after the call `op`, in one vector of bits.
template <typename Op>
std::vector<uint32_t> BitsAfter(Backend& ops, int32_t dim, int64_t tokens, Op op) {
  constexpr int64_t kHeads = 5, kKvHeads = 2;
  const DeviceMatrix q(ops, RandomMatrix(tokens, kHeads * dim, 7));
  const DeviceMatrix k(ops, RandomMatrix(tokens, kKvHeads * dim, 8));
  const DeviceMatrix v(ops, RandomMatrix(tokens, kKvHeads * dim, 9));
  const int64_t count = tokens * kKvHeads;
  std::vector<BFloat16> rows(2 * count * 2 * dim, BFloat16{0x7fc1});
  const DeviceBuffer memory = *ops.Allocate(static_cast<int64_t>(rows.size() * 2));
  std::vector<BFloat16*> to;  // the second places in reverse
  for (int64_t i = 0; i < 2 * count; ++i) {
    to.push_back(memory.As<BFloat16>() + (i < count ? i : 3 * count - 1 - i) * 2 * dim);
  }
  const std::span<BFloat16* const> all(to);
  op(q.view(), k.view(), v.view(), all.first(count), all.subspan(count));
  ops.Download(memory.data(), std::as_writable_bytes(std::span(rows)));
  std::vector<uint32_t> bits;
  for (const HostMatrix& matrix : {q.Download(), k.Download()}) {
    for (int64_t r = 0; r < tokens; ++r) {
      const std::vector<uint32_t> row = matrix.RowBits(r);
      bits.insert(bits.end(), row.begin(), row.end());
    }
  }
  for (const BFloat16 value : rows) bits.push_back(value.bits);
  return bits;
}

TEST_F(PointwiseGpuTest, RopeAndWriteRowsIsItsFourCallsBitForBit) {
  const std::vector<int32_t> positions = {0, 1, 127, 128, 4095, 2, 9999};
  for (const int32_t dim : {64, 128}) {
    for (const RopeLayout layout : {RopeLayout::kHalf, RopeLayout::kInterleaved}) {
      LlamaHyperparameters model;
      model.head_dim = dim;
      model.rope_theta = 500000;
      model.rope_layout = layout;
      const RopeTable table = *ops_->MakeRopeTable(model, 10000);
      for (const size_t tokens : {1, 7}) {
        const auto at = std::span(positions).first(tokens);
        const auto fused =
            BitsAfter(*ops_, dim, tokens, [&](auto q, auto k, auto v, auto a, auto b) {
              ops_->RopeAndWriteRows(at, table, q, k, v, a, b);
            });
        const auto apart =
            BitsAfter(*ops_, dim, tokens, [&](auto q, auto k, auto v, auto a, auto b) {
              ops_->Backend::RopeAndWriteRows(at, table, q, k, v, a, b);
            });
        EXPECT_EQ(fused, apart) << dim << ", " << tokens << " tokens, layout "
                                << static_cast<int>(layout);
      }
    }
  }
}

class MemoryGpuTest : public GpuTest {};

TEST_F(MemoryGpuTest, BuffersAreZeroedAccountedAndRefusedBeyondTheBudget) {
  const int64_t before = ops_->allocated_bytes();
  {
    const DeviceBuffer buffer = *ops_->Allocate(4097, MemoryKind::kResident);
    EXPECT_EQ(ops_->allocated_bytes(), before + 4097);
    std::vector<std::byte> host(4097, std::byte{1});
    ops_->Download(buffer.data(), host);
    EXPECT_EQ(host, std::vector<std::byte>(4097));
  }
  EXPECT_EQ(ops_->allocated_bytes(), before);
  EXPECT_EQ(ops_->Allocate(kGpuTestMemory + 1).status().code(),
            absl::StatusCode::kResourceExhausted);
}

// More arguments than the ring of them holds at once.
TEST_F(MemoryGpuTest, ManySmallOpsInFlightKeepTheirOwnArguments) {
  if (TestsRunOn("emulator")) GTEST_SKIP() << "hours on the emulator";
  const FileWeight file = RandomWeight(DType::kF32, 256, 32, 1);
  const Weight embedding = file.Load(*ops_);
  constexpr int64_t kTokens = 100000;
  std::vector<DeviceMatrix> out;
  for (int call = 0; call < 40; ++call) {
    out.emplace_back(*ops_, 1, 32);
    std::vector<TokenId> tokens(kTokens, call);
    // The last row is read back; the rest only fills the ring.
    const DeviceBuffer all = *ops_->Allocate(kTokens * 32 * 4);
    ops_->Embed(tokens, embedding, all.Matrix<float>(kTokens, 32));
    ops_->Embed(std::span(tokens).first(1), embedding, out.back().view());
  }
  HostMatrix values = file.Values();
  for (int call = 0; call < 40; ++call) {
    EXPECT_EQ(out[call].Download().RowBits(0), values.RowBits(call)) << call;
  }
}

}  // namespace
}  // namespace tailor
