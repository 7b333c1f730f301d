// The kernels of one SIMD level that read weights: unpack, gemv, gemm; included by
// cpu_kernels_impl.h alone. See cpu_kernels.h.
#pragma once

#include <algorithm>
#include <type_traits>

#include "worker/ops/cpu_kernels.h"
#include "worker/ops/packed_weight.h"
#include "worker/ops/vec16.h"

namespace tailor::TS_SIMD_NAMESPACE {

// Each ForEach... calls use(k, w) for consecutive inputs k from `first` on with the 16 outputs'
// weights at k, dequantized exactly as the file's format says: one rounding of d * q (+ m).

template <DType kType, typename Use>
inline void ForEachPlain(const std::byte* group, int64_t first, int64_t count, Use use) {
  if constexpr (kType == DType::kF32) {
    const auto* p = reinterpret_cast<const float*>(group);
    for (int64_t k = first; k < first + count; ++k) use(k, Load(p + k * kLanes));
  } else {
    const auto* p = reinterpret_cast<const uint16_t*>(group);
    for (int64_t k = first; k < first + count; ++k) {
      use(k, kType == DType::kF16 ? LoadHalf(p + k * kLanes) : LoadBFloat16(p + k * kLanes));
    }
  }
}

inline Vec16 LoadHalf(const std::byte* p) { return LoadHalf(reinterpret_cast<const uint16_t*>(p)); }
inline Vec16 LoadInt8(const std::byte* p) { return LoadInt8(reinterpret_cast<const int8_t*>(p)); }

// 32 inputs of nibbles: w = q * d + m.
template <typename Use>
inline void ForEachNibble(const std::byte* nibbles, Vec16 d, Vec16 m, int64_t first, Use use) {
  for (int pair = 0; pair < kBlockInputs / 2; ++pair) {
    Vec16 low, high;
    LoadNibbles(reinterpret_cast<const uint8_t*>(nibbles) + pair * kLanes, &low, &high);
    use(first + 2 * pair, MulAdd(low, d, m));
    use(first + 2 * pair + 1, MulAdd(high, d, m));
  }
}

// Blocks of 32.
template <DType kType, typename Use>
inline void ForEachOfBlock(const std::byte* block, int64_t first, Use use) {
  const Vec16 d = LoadHalf(block);
  if constexpr (kType == DType::kQ8_0) {
    for (int k = 0; k < kBlockInputs; ++k) {
      use(first + k, Mul(LoadInt8(block + (2 + k) * kLanes), d));
    }
  } else if constexpr (kType == DType::kQ4_0) {
    ForEachNibble(block + 2 * kLanes, d, Mul(d, Set(-8.0f)), first, use);
  } else {
    ForEachNibble(block + 4 * kLanes, d, LoadHalf(block + 2 * kLanes), first, use);
  }
}

// 32 inputs of a block of 256. d * scale and dmin * min are exact (11 + 6 bits).
template <typename Use>
inline void ForEachOfQ4K(const std::byte* block, int64_t first, Use use) {
  const int64_t step = first % kSuperBlockInputs / kBlockInputs;
  const auto scales = [&](int64_t row) {
    return LoadBytes(block + PackedQ4K::kScales + row * kLanes);
  };
  Bytes16 scale, min;
  if (step < 4) {
    scale = Move<0, 6, 0>(scales(step));
    min = Move<0, 6, 0>(scales(step + 4));
  } else {
    const Bytes16 both = scales(step + 4);
    scale = Or(Move<0, 4, 0>(both), Move<6, 2, 4>(scales(step - 4)));
    min = Or(Move<4, 4, 0>(both), Move<6, 2, 4>(scales(step)));
  }
  const Vec16 d = Mul(LoadHalf(block), ToFloat(scale));
  const Vec16 m = Mul(Sub(Zero(), LoadHalf(block + PackedQ4K::kMin)), ToFloat(min));
  ForEachNibble(block + PackedQ4K::kCodes + step * PackedQ4K::kStepBytes, d, m, first, use);
}

// 32 inputs of a block of 256, two scales. q * d - 32 * d is exact (11 + 7 + 6 bits), fused or not.
template <typename Use>
inline void ForEachOfQ6K(const std::byte* block, int64_t first, Use use) {
  const int64_t step = first % kSuperBlockInputs / kBlockInputs;
  const std::byte* low = block + PackedQ6K::kCodes + step * PackedQ6K::kStepBytes;
  const std::byte* high = low + PackedQ6K::kHighInStep;
  for (int half = 0; half < 2; ++half) {
    const std::byte* scale = block + PackedQ6K::kScales + (2 * step + half) * kLanes;
    const Vec16 d = Mul(LoadHalf(block), LoadInt8(scale)), m = Mul(d, Set(-32.0f));
    for (int four = 4 * half; four < 4 * half + 4; ++four) {
      const Bytes16 q01 = LoadBytes(low + 2 * four * kLanes);
      const Bytes16 q23 = LoadBytes(low + (2 * four + 1) * kLanes);
      const Bytes16 top = LoadBytes(high + four * kLanes);
      const int64_t k = first + 4 * four;
      const auto emit = [&](int i, Bytes16 q) { use(k + i, MulAdd(ToFloat(q), d, m)); };
      emit(0, Or(Move<0, 4, 0>(q01), Move<0, 2, 4>(top)));
      emit(1, Or(Move<4, 4, 0>(q01), Move<2, 2, 4>(top)));
      emit(2, Or(Move<0, 4, 0>(q23), Move<4, 2, 4>(top)));
      emit(3, Or(Move<4, 4, 0>(q23), Move<6, 2, 4>(top)));
    }
  }
}

// Inputs [first, first + count) of a group; in the block formats whole 32s.
template <DType kType, typename Use>
inline void ForEachInput(const std::byte* group, int64_t first, int64_t count, Use use) {
  if constexpr (!IsBlockFormat(kType)) {
    ForEachPlain<kType>(group, first, count, use);
  } else {
    for (int64_t k = first; k < first + count; k += kBlockInputs) {
      const std::byte* block = group + PackedOffset(kType, k);
      if constexpr (kType == DType::kQ4_K) {
        ForEachOfQ4K(block, k, use);
      } else if constexpr (kType == DType::kQ6_K) {
        ForEachOfQ6K(block, k, use);
      } else {
        ForEachOfBlock<kType>(block, k, use);
      }
    }
  }
}

template <typename F>
inline void WithDType(DType dtype, F f) {
  switch (dtype) {
    case DType::kF32:
      return f(std::integral_constant<DType, DType::kF32>());
    case DType::kF16:
      return f(std::integral_constant<DType, DType::kF16>());
    case DType::kBF16:
      return f(std::integral_constant<DType, DType::kBF16>());
    case DType::kQ8_0:
      return f(std::integral_constant<DType, DType::kQ8_0>());
    case DType::kQ4_0:
      return f(std::integral_constant<DType, DType::kQ4_0>());
    case DType::kQ4_1:
      return f(std::integral_constant<DType, DType::kQ4_1>());
    case DType::kQ4_K:
      return f(std::integral_constant<DType, DType::kQ4_K>());
    case DType::kQ6_K:
      return f(std::integral_constant<DType, DType::kQ6_K>());
  }
}

void Unpack(const WeightGroup* groups, int count, float* panel) {
  for (int g = 0; g < count; ++g) {
    WithDType(groups[g].dtype, [&](auto type) {
      ForEachInput<type()>(groups[g].bytes, 0, groups[g].cols,
                           [&](int64_t k, Vec16 w) { Store(panel + (k * count + g) * kLanes, w); });
    });
  }
}

// The groups' chains of multiply-adds are independent: four hide the latency of one.
template <DType kType, int kGroups>
inline void GemvBlocks(const WeightGroup* groups, const float* x, float* out) {
  constexpr int64_t kStep = IsBlockFormat(kType) ? kBlockInputs : 16;
  const int64_t cols = groups[0].cols;
  Vec16 acc[kGroups];
  for (Vec16& a : acc) a = Zero();
  for (int64_t first = 0; first < cols; first += kStep) {
    const int64_t count = std::min(kStep, cols - first);
    for (int g = 0; g < kGroups; ++g) {
      ForEachInput<kType>(groups[g].bytes, first, count,
                          [&](int64_t k, Vec16 w) { acc[g] = MulAdd(w, Set(x[k]), acc[g]); });
    }
  }
  for (int g = 0; g < kGroups; ++g) Store(out + g * kLanes, acc[g]);
}

template <DType kType>
inline void GemvOneRow(const WeightGroup* groups, int count, const float* x, float* out) {
  switch (count) {
    case 4:
      return GemvBlocks<kType, 4>(groups, x, out);
    case 3:
      return GemvBlocks<kType, 3>(groups, x, out);
    case 2:
      return GemvBlocks<kType, 2>(groups, x, out);
    default:
      return GemvBlocks<kType, 1>(groups, x, out);
  }
}

// Up to kRows rows of x, whose weights are read and widened once: the order of inputs and the
// multiply-add of GemvBlocks, so the same bits. Rows from `rows` on repeat the last, unused.
template <DType kType, int kRows>
inline void GemvFewRows(const WeightGroup* groups, int count, const float* x, int64_t x_stride,
                        int64_t rows, float* out) {
  const int64_t cols = groups[0].cols;
  const float* row[kRows];
  for (int r = 0; r < kRows; ++r) row[r] = x + std::min<int64_t>(r, rows - 1) * x_stride;
  Vec16 sums[kGemvGroups][kRows];
  for (auto& group : sums) {
    for (Vec16& sum : group) sum = Zero();
  }
  // Steps are short so that a group's multiply-adds hide the latency of another's, and x stays in
  // the nearest cache: steps of 256 inputs made eight rows a fifth slower.
  for (int64_t first = 0; first < cols; first += kBlockInputs) {
    const int64_t inputs = std::min(kBlockInputs, cols - first);
    for (int g = 0; g < count; ++g) {
      Vec16 acc[kRows];  // in registers for the length of a step
      for (int r = 0; r < kRows; ++r) acc[r] = sums[g][r];
      ForEachInput<kType>(groups[g].bytes, first, inputs, [&](int64_t k, Vec16 w) {
        for (int r = 0; r < kRows; ++r) acc[r] = MulAdd(w, Set(row[r][k]), acc[r]);
      });
      for (int r = 0; r < kRows; ++r) sums[g][r] = acc[r];
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    for (int g = 0; g < count; ++g) Store(out + (r * count + g) * kLanes, sums[g][r]);
  }
}

// Rows of one pass: what registers hold beside a weight. A pass may be wider than its rows where
// that costs less than one more pass.
#if defined(__AVX512F__)
inline constexpr int kMostGemvRows = 8;
#else
inline constexpr int kMostGemvRows = 4;
#endif

template <DType kType>
[[gnu::noinline]] void GemvRows(const WeightGroup* groups, int count, const float* x,
                                int64_t x_stride, int64_t rows, float* out) {
  while (rows > 0) {
    const int64_t taken = std::min<int64_t>(rows, rows > 6 ? kMostGemvRows : 4);
    if (taken > 4) {
      GemvFewRows<kType, kMostGemvRows>(groups, count, x, x_stride, taken, out);
    } else if (taken > 2) {
      GemvFewRows<kType, 4>(groups, count, x, x_stride, taken, out);
    } else if (taken == 2) {
      GemvFewRows<kType, 2>(groups, count, x, x_stride, taken, out);
    } else {
      GemvOneRow<kType>(groups, count, x, out);
    }
    x += taken * x_stride;
    out += taken * count * kLanes;
    rows -= taken;
  }
}

void Gemv(const WeightGroup* groups, int count, const float* x, int64_t x_stride, int64_t rows,
          float* out) {
  WithDType(groups[0].dtype, [&](auto type) {
    if (rows == 1) return GemvOneRow<type()>(groups, count, x, out);
    GemvRows<type()>(groups, count, x, x_stride, rows, out);
  });
}

// Same order of inputs and the same multiply-add as GemvBlocks: bit-identical results.
template <int kRows>
inline void GemmRows(const float* panel, int64_t cols, const float* x, int64_t x_stride,
                     float* out) {
  Vec16 acc[kRows][kGemmGroups];
  for (auto& row : acc) row[0] = row[1] = Zero();
  for (int64_t k = 0; k < cols; ++k) {
    const Vec16 w0 = Load(panel + k * 2 * kLanes), w1 = Load(panel + k * 2 * kLanes + kLanes);
    for (int r = 0; r < kRows; ++r) {
      const Vec16 xk = Set(x[r * x_stride + k]);
      acc[r][0] = MulAdd(w0, xk, acc[r][0]);
      acc[r][1] = MulAdd(w1, xk, acc[r][1]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    Store(out + r * 2 * kLanes, acc[r][0]);
    Store(out + r * 2 * kLanes + kLanes, acc[r][1]);
  }
}

void Gemm(const float* panel, int64_t cols, const float* x, int64_t x_stride, int64_t rows,
          float* out) {
  constexpr int kRows = 12;  // 24 accumulators and 2 weights in 32 registers
  int64_t r = 0;
  for (; r + kRows <= rows; r += kRows) {
    GemmRows<kRows>(panel, cols, x + r * x_stride, x_stride, out + r * 2 * kLanes);
  }
  for (; r + 4 <= rows; r += 4) {
    GemmRows<4>(panel, cols, x + r * x_stride, x_stride, out + r * 2 * kLanes);
  }
  for (; r < rows; ++r) GemmRows<1>(panel, cols, x + r * x_stride, x_stride, out + r * 2 * kLanes);
}

}  // namespace tailor::TS_SIMD_NAMESPACE
