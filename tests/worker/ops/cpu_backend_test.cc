// The ops that work token by token, against their references: Embed, RmsNorm, AddBias, Rope,
// WriteRows.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "tests/worker/ops/op_test.h"
#include "tests/worker/ops/weights_in_file.h"
#include "worker/ops/reference.h"

namespace tailor {
namespace {

class PointwiseTest : public OpTest {};
INSTANTIATE_AT_EVERY_SIMD_LEVEL(PointwiseTest);

TEST_P(PointwiseTest, EmbedGivesTheRowsOfTheFileExactly) {
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

// The root is computed in double and rounded once; two products round once each; the reference
// rounds its result once.
TEST_P(PointwiseTest, RmsNormIsItsReferenceWithinFourRoundings) {
  for (const int64_t hidden : {1, 7, 16, 31, 33, 576, 1000}) {
    const FileWeight gain = RandomWeight(DType::kF32, 1, hidden, 2);
    for (const int64_t rows : {1, 2, 5, 17, 33}) {
      HostMatrix x = RandomMatrix(rows, hidden, 3 + hidden), want(rows, hidden);
      if (rows > 1) std::fill_n(x.values.begin(), hidden, 0.0f);  // a row of zeros
      if (rows > 2)
        for (int64_t c = 0; c < hidden; ++c) x.values[hidden + c] *= 1e30f;
      RmsNormRef(x.view(), gain.Values().values, 1e-5f, want.view());
      const DeviceMatrix device_x(*ops_, x), out(*ops_, rows, hidden);
      ops_->RmsNorm(device_x.view(), gain.Load(*ops_), 1e-5f, out.view());
      ExpectNear(out.Download(), want,
                 [&](int64_t r, int64_t c) { return 4 * kEps * std::abs(want.row(r)[c]); });
    }
  }
}

TEST_P(PointwiseTest, AddBiasIsItsReferenceExactly) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const int64_t n : {1, 7, 31, 256, 1536}) {
      const FileWeight bias = RandomWeight(dtype, 1, n, 2);
      for (const int64_t rows : {1, 2, 33}) {
        HostMatrix want = RandomMatrix(rows, n, 3);
        const DeviceMatrix x(*ops_, want);
        AddBiasRef(bias.Values().values, want.view());
        ops_->AddBias(bias.Load(*ops_), x.view());
        EXPECT_EQ(x.Download().values, want.values) << DTypeName(dtype) << " " << n;
      }
    }
  }
}

LlamaHyperparameters RopeModel(int32_t head_dim, RopeLayout layout, RopeScaling::Kind kind) {
  LlamaHyperparameters model;
  model.head_dim = head_dim;
  model.rope_theta = 500000;
  model.rope_layout = layout;
  model.rope_scaling = {.kind = kind,
                        .factor = 8,
                        .low_freq_factor = 1,
                        .high_freq_factor = 4,
                        .original_context = 8192};
  return model;
}

// Roundings of each of the two products that make an element: cos or sin, the product, the sum; and
// the reference's one.
TEST_P(PointwiseTest, RopeIsItsReferenceWithinFourRoundings) {
  const std::vector<int32_t> positions = {0, 1, 127, 128, 4095, 2, 9999};
  const auto rows = static_cast<int64_t>(positions.size());
  for (const int32_t head_dim : {64, 128, 80}) {
    for (const RopeLayout layout : {RopeLayout::kHalf, RopeLayout::kInterleaved}) {
      for (const auto kind :
           {RopeScaling::Kind::kNone, RopeScaling::Kind::kLinear, RopeScaling::Kind::kLlama3}) {
        const LlamaHyperparameters model = RopeModel(head_dim, layout, kind);
        HostMatrix x = RandomMatrix(rows, 3 * head_dim, 4), want = x;
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
}

TEST_P(PointwiseTest, WriteRowsRoundsToNearestAndTouchesItsRowsOnly) {
  constexpr int64_t kTokens = 17, kHeads = 3;
  constexpr int32_t kDim = 64;
  const HostMatrix k = RandomMatrix(kTokens, kHeads * kDim, 5);
  const HostMatrix v = RandomMatrix(kTokens, kHeads * kDim, 6);
  const DeviceMatrix device_k(*ops_, k), device_v(*ops_, v);
  // Rows lie in reverse, a gap of one row between two.
  constexpr int64_t kSlots = 2 * kTokens * kHeads;
  const std::vector<BFloat16> blank(kSlots * 2 * kDim, BFloat16{0x7fc1});
  std::vector<BFloat16> want = blank, got = blank;
  const DeviceBuffer memory = *ops_->Allocate(static_cast<int64_t>(blank.size() * 2));
  ops_->Upload(std::as_bytes(std::span(blank)), memory.data());
  std::vector<BFloat16*> want_rows, device_rows;
  for (int64_t i = 0; i < kTokens * kHeads; ++i) {
    const int64_t at = (kSlots - 2 - 2 * i) * 2 * kDim;
    want_rows.push_back(want.data() + at);
    device_rows.push_back(memory.As<BFloat16>() + at);
  }
  HostMatrix host_k = k, host_v = v;
  WriteRowsRef(host_k.view(), host_v.view(), want_rows, kDim);
  ops_->WriteRows(device_k.view(), device_v.view(), device_rows, kDim);
  ops_->Download(memory.data(), std::as_writable_bytes(std::span(got)));
  EXPECT_EQ(got, want);
  // And the reference's rounding is the nearest bf16: half an ulp, 2^-8 of the value.
  for (int32_t c = 0; c < kDim; ++c) {
    EXPECT_NEAR(ToFloat(want_rows[0][c]), k.row(0)[c], std::abs(k.row(0)[c]) * 0x1p-8);
  }
}

// decisions/0003: a row's result depends on neither the batch nor the threads.
TEST_P(PointwiseTest, ARowIsTheSameAloneInABatchAndAtAnyThreadCount) {
  constexpr int64_t kRows = 512, kHidden = 192;
  const HostMatrix x = RandomMatrix(kRows, kHidden, 8);
  const FileWeight gain = RandomWeight(DType::kF32, 1, kHidden, 9);
  const LlamaHyperparameters model = RopeModel(64, RopeLayout::kHalf, RopeScaling::Kind::kNone);
  std::vector<int32_t> positions(kRows);
  for (int64_t i = 0; i < kRows; ++i) positions[i] = static_cast<int32_t>(i * 7);
  const auto run = [&](Backend& ops, int64_t first, int64_t count) {
    HostMatrix part(count, kHidden);
    std::copy_n(x.row(first).data(), count * kHidden, part.values.data());
    const DeviceMatrix in(ops, part), out(ops, count, kHidden);
    ops.RmsNorm(in.view(), gain.Load(ops), 1e-5f, out.view());
    const RopeTable table = *ops.MakeRopeTable(model, kRows * 7);
    ops.Rope(std::span(positions).subspan(first, count), table, out.view());
    return out.Download();
  };
  const HostMatrix want = run(*ops_, 0, kRows);
  for (const int threads : {1, 2, 3}) {
    const auto ops = MakeBackend(threads);
    const HostMatrix all = run(*ops, 0, kRows), five = run(*ops, 200, 5), one = run(*ops, 203, 1);
    EXPECT_EQ(all.values, want.values) << threads;
    EXPECT_EQ(five.RowBits(3), want.RowBits(203)) << threads;
    EXPECT_EQ(one.RowBits(0), want.RowBits(203)) << threads;
  }
}

}  // namespace
}  // namespace tailor
