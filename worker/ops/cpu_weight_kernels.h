// The kernels of one SIMD level that read weights: unpack, gemv, gemm; included by
// cpu_kernels_impl.h alone. See cpu_kernels.h.
#pragma once

#include <algorithm>
#include <type_traits>

#include "worker/ops/cpu_kernels.h"
#include "worker/ops/packed_weight.h"
#include "worker/ops/vec16.h"

namespace tailor::TS_SIMD_NAMESPACE {

// Calls use(k, w) for k = 0, 1, ... with the 16 outputs' weights at input k, dequantized exactly as
// the file's format says: one rounding of d * q (+ m).
template <DType kType, typename Use>
inline void ForEachInput(const std::byte* bytes, int64_t cols, Use use) {
  if constexpr (kType == DType::kF32) {
    const auto* p = reinterpret_cast<const float*>(bytes);
    for (int64_t k = 0; k < cols; ++k) use(k, Load(p + k * kLanes));
  } else if constexpr (kType == DType::kF16 || kType == DType::kBF16) {
    const auto* p = reinterpret_cast<const uint16_t*>(bytes);
    for (int64_t k = 0; k < cols; ++k) {
      use(k, kType == DType::kF16 ? LoadHalf(p + k * kLanes) : LoadBFloat16(p + k * kLanes));
    }
  } else if constexpr (kType == DType::kQ8_0) {
    for (int64_t block = 0; block < cols / kBlockInputs; ++block) {
      const std::byte* b = bytes + block * PackedBlockBytes(kType);
      const Vec16 d = LoadHalf(reinterpret_cast<const uint16_t*>(b));
      const auto* q = reinterpret_cast<const int8_t*>(b + 2 * kLanes);
      for (int k = 0; k < kBlockInputs; ++k) {
        use(block * kBlockInputs + k, Mul(LoadInt8(q + k * kLanes), d));
      }
    }
  } else {
    constexpr bool kHasMin = kType == DType::kQ4_1;
    for (int64_t block = 0; block < cols / kBlockInputs; ++block) {
      const std::byte* b = bytes + block * PackedBlockBytes(kType);
      const Vec16 d = LoadHalf(reinterpret_cast<const uint16_t*>(b));
      const Vec16 m = kHasMin ? LoadHalf(reinterpret_cast<const uint16_t*>(b + 2 * kLanes))
                              : Mul(d, Set(-8.0f));
      const auto* q = reinterpret_cast<const uint8_t*>(b + (kHasMin ? 4 : 2) * kLanes);
      for (int pair = 0; pair < kBlockInputs / 2; ++pair) {
        Vec16 low, high;
        LoadNibbles(q + pair * kLanes, &low, &high);
        use(block * kBlockInputs + 2 * pair, MulAdd(low, d, m));
        use(block * kBlockInputs + 2 * pair + 1, MulAdd(high, d, m));
      }
    }
  }
}

template <typename F>
inline void WithDType(DType dtype, F f) {
  switch (dtype) {
    case DType::kF32: return f(std::integral_constant<DType, DType::kF32>());
    case DType::kF16: return f(std::integral_constant<DType, DType::kF16>());
    case DType::kBF16: return f(std::integral_constant<DType, DType::kBF16>());
    case DType::kQ8_0: return f(std::integral_constant<DType, DType::kQ8_0>());
    case DType::kQ4_0: return f(std::integral_constant<DType, DType::kQ4_0>());
    case DType::kQ4_1: return f(std::integral_constant<DType, DType::kQ4_1>());
  }
}

void Unpack(const WeightGroup* groups, int count, float* panel) {
  for (int g = 0; g < count; ++g) {
    WithDType(groups[g].dtype, [&](auto type) {
      ForEachInput<type()>(groups[g].bytes, groups[g].cols, [&](int64_t k, Vec16 w) {
        Store(panel + (k * count + g) * kLanes, w);
      });
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
      ForEachInput<kType>(groups[g].bytes + PackedOffset(kType, first), count,
                          [&](int64_t k, Vec16 w) { acc[g] = MulAdd(w, Set(x[first + k]), acc[g]); });
    }
  }
  for (int g = 0; g < kGroups; ++g) Store(out + g * kLanes, acc[g]);
}

void Gemv(const WeightGroup* groups, int count, const float* x, float* out) {
  WithDType(groups[0].dtype, [&](auto type) {
    switch (count) {
      case 4: return GemvBlocks<type(), 4>(groups, x, out);
      case 3: return GemvBlocks<type(), 3>(groups, x, out);
      case 2: return GemvBlocks<type(), 2>(groups, x, out);
      default: return GemvBlocks<type(), 1>(groups, x, out);
    }
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
