// The kernels' index arithmetic and packing, on the host, against the references.
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "tests/worker/ops/op_test.h"
#include "tests/worker/ops/weights_in_file.h"
#include "worker/ops/cuda/page_bits.h"
#include "worker/ops/cuda/split_plan.h"
#include "worker/ops/cuda/weight_layout.h"
#include "worker/ops/half.h"
#include "worker/ops/quantize_page.h"
#include "worker/ops/reference.h"

namespace tailor::cuda {
namespace {

TEST(HostDeviceTest, BfloatBitsAreThoseOfTheStoredType) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 200000; ++i) {
    const float value = BitsFloat(static_cast<uint32_t>(random()));
    ASSERT_EQ(ToBf16Bits(value), ToBFloat16(value).bits) << FloatBits(value);
    const auto bits = static_cast<uint16_t>(random());
    ASSERT_EQ(FloatBits(FromBf16Bits(bits)), FloatBits(ToFloat(BFloat16{bits})));
  }
}

// Rows that reach every branch: random, constant groups, subnormal ranges, infinities' neighbours.
std::vector<BFloat16> RowsOfEveryKind(int32_t head_dim, int kind) {
  std::vector<BFloat16> rows = RandomRows(kPageRows, head_dim, kind, kind == 2 ? 1e-38f : 1.0f);
  if (kind == 1) {
    for (BFloat16& value : rows) value = ToBFloat16(-3.25f);
  }
  if (kind == 3) {
    for (size_t i = 0; i < rows.size(); i += 3) rows[i] = ToBFloat16(i % 2 == 0 ? 1e38f : -1e38f);
  }
  return rows;
}

std::vector<std::byte> QuantizeAsKernel(const std::vector<BFloat16>& rows, const PageBits& shape) {
  std::vector<std::byte> page(shape.PageBytes(), std::byte{0xa5});
  const auto* values = reinterpret_cast<const uint16_t*>(rows.data());
  const auto at = [&](int64_t offset) { return reinterpret_cast<uint16_t*>(page.data() + offset); };
  const int32_t d = shape.head_dim;
  for (int32_t half = 0; half < kPageRows / kGroup; ++half) {
    for (int32_t c = 0; c < d; ++c) {
      QuantizeGroup(values + half * kGroup * 2 * d + c, 2 * d, shape.bits,
                    at(shape.KeyWord(c, half * 4)), at(shape.KeyParam(c, half)));
    }
  }
  for (int32_t t = 0; t < kPageRows; ++t) {
    for (int32_t group = 0; group < d / kGroup; ++group) {
      QuantizeGroup(values + t * 2 * d + d + group * kGroup, 1, shape.bits,
                    at(shape.ValueWord(t, group * 4)), at(shape.ValueParam(t, group)));
    }
  }
  return page;
}

TEST(PageBitsTest, APageHasTheBytesOfTheReference) {
  for (const int32_t bits : {1, 2, 4, 8}) {
    for (const int32_t head_dim : {64, 128}) {
      for (int kind = 0; kind < 4; ++kind) {
        const std::vector<BFloat16> rows = RowsOfEveryKind(head_dim, kind);
        const QuantizedPageShape shape = {bits, head_dim};
        std::vector<std::byte> want(shape.PageBytes());
        QuantizePageRef(rows.data(), shape, want.data());
        EXPECT_EQ(QuantizeAsKernel(rows, {bits, head_dim}), want)
            << bits << " bits, head_dim " << head_dim << ", kind " << kind;
      }
    }
  }
}

template <int kBits>
void ExpectCodesOfReference(int32_t head_dim) {
  const std::vector<BFloat16> rows = RandomRows(kPageRows, head_dim, kBits);
  const QuantizedPageShape shape = {kBits, head_dim};
  std::vector<std::byte> page(shape.PageBytes());
  QuantizePageRef(rows.data(), shape, page.data());
  HostMatrix want(kPageRows, 2 * head_dim);
  DequantizePageRef(page.data(), shape, want.view());
  const PageBits at = {kBits, head_dim};
  const auto value = [&](int64_t word, int64_t param, int32_t i) {
    uint16_t planes[kBits], params[2];
    std::memcpy(planes, page.data() + word, sizeof(planes));
    std::memcpy(params, page.data() + param, sizeof(params));
    return FromBf16Bits(params[0]) +
           static_cast<float>(CodeAt<kBits>(planes, i)) * FromBf16Bits(params[1]);
  };
  for (int32_t t = 0; t < kPageRows; ++t) {
    for (int32_t c = 0; c < head_dim; ++c) {
      ASSERT_EQ(value(at.KeyWord(c, t / 16), at.KeyParam(c, t / 64), t % 16), want.row(t)[c]);
      ASSERT_EQ(value(at.ValueWord(t, c / 16), at.ValueParam(t, c / 64), c % 16),
                want.row(t)[head_dim + c]);
    }
  }
}

TEST(PageBitsTest, CodesAndParametersAreFoundWhereTheReferencePutThem) {
  for (const int32_t head_dim : {64, 128}) {
    ExpectCodesOfReference<1>(head_dim);
    ExpectCodesOfReference<2>(head_dim);
    ExpectCodesOfReference<4>(head_dim);
    ExpectCodesOfReference<8>(head_dim);
  }
}

TEST(PageBitsTest, EveryBlockOfAPageBeginsAtAMultipleOfSixteenBytes) {
  for (const int32_t bits : {1, 2, 4, 8}) {
    for (const int32_t head_dim : {64, 128}) {
      const PageBits at = {bits, head_dim};
      EXPECT_EQ(at.PageBytes(), (QuantizedPageShape{bits, head_dim}.PageBytes()));
      EXPECT_EQ(at.HalfBytes() % 16, 0);  // halves are copied 16 bytes at a time
      EXPECT_EQ(at.CodeBytes() % 16, 0);
      EXPECT_EQ(at.KeyWord(1, 1) % (2 * bits), 0);
    }
  }
}

TEST(SplitPlanTest, EveryTokenIsInOneSplitAndOfItsSegmentsRow) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 200; ++round) {
    std::vector<SegmentRef> segments;
    int32_t tokens = 0;
    const auto pieces = static_cast<int32_t>(1 + random() % 40);
    for (int32_t i = 0; i < pieces; ++i) {
      const int32_t count =
          round % 2 == 0 && i > 0 ? kPageRows : static_cast<int32_t>(1 + random() % 300);
      segments.push_back(
          {reinterpret_cast<const uint16_t*>(uintptr_t{1} << 40) + i * (1 << 20), tokens, count});
      tokens += count;
    }
    const SplitPlan plan = PlanSplits(tokens, 8, 132);
    int32_t next = 0;
    for (int32_t split = 0; split < plan.splits; ++split) {
      ASSERT_EQ(plan.First(split), next);
      next = plan.Last(split, tokens);
      ASSERT_GT(next, plan.First(split)) << "an empty split";
    }
    ASSERT_EQ(next, tokens);
    for (int32_t t = 0, s = 0; t < tokens; ++t) {
      while (t >= segments[s].first + segments[s].tokens) ++s;
      ASSERT_EQ(FindSegment(segments.data(), pieces, t), s) << "token " << t << ", round " << round;
      ASSERT_EQ(RowOf(segments.data(), pieces, t, 64),
                segments[s].rows + (t - segments[s].first) * 128);
    }
  }
}

TEST(SplitPlanTest, SplitsFillTheDeviceAndStayWithinTheirLimit) {
  EXPECT_EQ(PlanSplits(1, 8, 132).splits, 1);
  EXPECT_EQ(PlanSplits(0, 8, 132).splits, 0);
  const SplitPlan long_context = PlanSplits(131072, 8, 132);
  EXPECT_GE(long_context.splits * 8, 2 * 132) << "half of the blocks wanted, at least";
  EXPECT_LE(long_context.splits * 8, 4 * 132 + 8);
  EXPECT_LE(PlanSplits(int64_t{1} << 20, 1, 1000).splits, kMaxSplits);
  EXPECT_EQ(PlanPageSplits(5, 2, 132).splits, 5);
}

// Value c of row r as a kernel reads it: piece c / values, place c % values, scale of its block.
double PackedValue(const std::vector<std::byte>& packed, const WeightLayout& at, int64_t r,
                   int64_t c) {
  const int64_t index = r * at.pieces + c / at.piece_values;
  const std::byte* piece = packed.data() + index * kPieceBytes;
  const auto i = static_cast<int64_t>(c % at.piece_values);
  const auto half = [&](int64_t offset) {
    uint16_t bits;
    std::memcpy(&bits, packed.data() + offset, sizeof(bits));
    return static_cast<double>(HalfToFloat(bits));
  };
  const auto plain = [&]<typename T>(T value) {
    std::memcpy(&value, piece + i * sizeof(T), sizeof(T));
    return value;
  };
  const int64_t scale = at.scale_bytes == 0 ? 0
                                            : at.ScalesOffset() + r * at.ScaleRowBytes() +
                                                  c / at.scale_values * at.scale_bytes;
  const auto byte = [&](int64_t offset) { return static_cast<int>(packed[scale + offset]); };
  const int64_t step = c / 32 % 8;  // of a K block
  const auto nibble = [&] {
    return static_cast<int>(i < 16 ? piece[i] & std::byte{15} : piece[i - 16] >> 4);
  };
  switch (at.dtype) {
    case DType::kF32:
      return plain(float{});
    case DType::kF16:
      return HalfToFloat(plain(uint16_t{}));
    case DType::kBF16:
      return ToFloat(BFloat16{plain(uint16_t{})});
    case DType::kQ8_0:
      return half(scale) * static_cast<int8_t>(piece[i]);
    case DType::kQ4_0:
      return half(scale) * (nibble() - 8);
    case DType::kQ4_1:
      return half(scale) * nibble() + half(scale + 2);
    case DType::kQ4_K: {
      // The file's own packing of scales (linear_ref.cc), where the record has it.
      const int own = step < 4 ? byte(4 + step) & 63 : (byte(8 + step) & 15) | byte(step) >> 6 << 4;
      const int minimum =
          step < 4 ? byte(8 + step) & 63 : byte(8 + step) >> 4 | byte(4 + step) >> 6 << 4;
      return half(scale) * own * nibble() - half(scale + 2) * minimum;
    }
    case DType::kQ6_K: {
      uint16_t upper;
      std::memcpy(&upper, packed.data() + scale + step * 8 + i / 8 * 2, sizeof(upper));
      const auto own = static_cast<int8_t>(byte(64 + step * 2 + i / 16));
      return half(scale + 80) * own * ((nibble() | (upper >> (2 * (i % 8)) & 3) << 4) - 32);
    }
  }
  return std::numeric_limits<double>::quiet_NaN();
}

TEST(WeightLayoutTest, EveryValueIsFoundAndNothingIsInflated) {
  for (const DType dtype : kAllDTypes) {
    for (const int64_t cols :
         BlockValues(dtype) == 1
             ? std::vector<int64_t>{1, 7, 33, 64}
             : std::vector<int64_t>{WholeBlocks(dtype, 32), 3 * BlockValues(dtype)}) {
      const FileWeight file = RandomWeight(dtype, 5, cols, 3);
      const WeightLayout at = WeightLayout::Of(dtype, 5, cols);
      const auto packed = PackForDevice(file.view());
      ASSERT_TRUE(packed.ok());
      ASSERT_EQ(static_cast<int64_t>(packed->size()), at.Bytes());
      ASSERT_LE(at.Bytes(), static_cast<int64_t>(file.bytes.size()) + 5 * (kPieceBytes - 1));
      for (int64_t r = 0; r < 5; ++r) {
        for (int64_t c = 0; c < cols; ++c) {
          ASSERT_EQ(static_cast<float>(PackedValue(*packed, at, r, c)), file.Values().row(r)[c])
              << std::string(DTypeName(dtype)) << " row " << r << " column " << c;
        }
      }
    }
  }
}

TEST(WeightLayoutTest, BytesThatDoNotFitTheShapeAreRefused) {
  FileWeight file = RandomWeight(DType::kQ4_0, 2, 64, 1);
  file.bytes.pop_back();
  EXPECT_EQ(PackForDevice(file.view()).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tailor::cuda
