// What kernels share: reductions of a warp, loads of 16 bytes, weights of a piece as floats.
#pragma once

#include <cuda_fp16.h>

#include "common/cuda/kernel_launch.h"
#include "worker/ops/cuda/kernels.h"

namespace tailor::cuda {

inline constexpr unsigned kWholeWarp = 0xffffffffu;

__device__ __forceinline__ float WarpSum(float value) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) value += __shfl_xor_sync(kWholeWarp, value, mask);
  return value;
}

__device__ __forceinline__ float Silu(float a) { return a / (1.0f + expf(-a)); }

// The warps' sums of value `index`, [kWarps][kCount] in shared memory, added in their order.
template <int kWarps, int kCount>
__device__ __forceinline__ float AddWarps(const float* sums, int index) {
  float sum = 0.0f;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) sum += sums[warp * kCount + index];
  return sum;
}

// A load that leaves no trace in L1: weights are read once.
__device__ __forceinline__ uint4 LoadOnce(const void* address) {
  return __ldcs(static_cast<const uint4*>(address));
}

__device__ __forceinline__ float HalfBits(uint32_t bits) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
}

__device__ __forceinline__ void Bf16Pair(uint32_t pair, float* out) {
  out[0] = __uint_as_float(pair << 16);
  out[1] = __uint_as_float(pair & 0xffff0000u);
}

template <WeightType Type>
struct Piece;

template <>
struct Piece<WeightType::kF32> {
  static constexpr int kValues = 4;
  static __device__ __forceinline__ void Load(const uint4& raw, const void*, int64_t, float* w) {
    w[0] = __uint_as_float(raw.x);
    w[1] = __uint_as_float(raw.y);
    w[2] = __uint_as_float(raw.z);
    w[3] = __uint_as_float(raw.w);
  }
};

template <>
struct Piece<WeightType::kF16> {
  static constexpr int kValues = 8;
  static __device__ __forceinline__ void Load(const uint4& raw, const void*, int64_t, float* w) {
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      w[2 * i] = HalfBits(words[i] & 0xffffu);
      w[2 * i + 1] = HalfBits(words[i] >> 16);
    }
  }
};

template <>
struct Piece<WeightType::kBF16> {
  static constexpr int kValues = 8;
  static __device__ __forceinline__ void Load(const uint4& raw, const void*, int64_t, float* w) {
    Bf16Pair(raw.x, w);
    Bf16Pair(raw.y, w + 2);
    Bf16Pair(raw.z, w + 4);
    Bf16Pair(raw.w, w + 6);
  }
};

template <>
struct Piece<WeightType::kQ8_0> {
  static constexpr int kValues = 16;
  // Two pieces a block of 32.
  static __device__ __forceinline__ void Load(const uint4& raw, const void* scales, int64_t piece,
                                              float* w) {
    const float d = HalfBits(static_cast<const uint16_t*>(scales)[piece / 2]);
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      w[i] = d * static_cast<float>(static_cast<int8_t>(words[i / 4] >> (8 * (i % 4))));
    }
  }
};

// Codes i and i + 16 share byte i.
template <bool WithMinimum>
__device__ __forceinline__ void LoadNibbles(const uint4& raw, float d, float m, float* w) {
  const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const uint32_t byte = words[i / 4] >> (8 * (i % 4));
    const float low = static_cast<float>(byte & 15u), high = static_cast<float>(byte >> 4 & 15u);
    w[i] = WithMinimum ? fmaf(d, low, m) : d * (low - 8.0f);
    w[i + 16] = WithMinimum ? fmaf(d, high, m) : d * (high - 8.0f);
  }
}

template <>
struct Piece<WeightType::kQ4_0> {
  static constexpr int kValues = 32;
  static __device__ __forceinline__ void Load(const uint4& raw, const void* scales, int64_t piece,
                                              float* w) {
    LoadNibbles<false>(raw, HalfBits(static_cast<const uint16_t*>(scales)[piece]), 0.0f, w);
  }
};

template <>
struct Piece<WeightType::kQ4_1> {
  static constexpr int kValues = 32;
  static __device__ __forceinline__ void Load(const uint4& raw, const void* scales, int64_t piece,
                                              float* w) {
    const uint32_t both = static_cast<const uint32_t*>(scales)[piece];
    LoadNibbles<true>(raw, HalfBits(both & 0xffffu), HalfBits(both >> 16), w);
  }
};

// Eight pieces a block of 256, whose record of 16 bytes is d, dmin, and 6-bit scales and minimums:
// of the first four steps in bytes of their own, of the others in a nibble each and the first
// ones' upper bits.
template <>
struct Piece<WeightType::kQ4_K> {
  static constexpr int kValues = 32;
  static __device__ __forceinline__ void Load(const uint4& raw, const void* scales, int64_t piece,
                                              float* w) {
    const uint4 record = __ldg(static_cast<const uint4*>(scales) + piece / 8);
    const int shift = static_cast<int>(piece % 4) * 8;
    uint32_t scale = record.y >> shift, minimum = record.z >> shift;
    if (piece % 8 >= 4) {
      const uint32_t nibbles = record.w >> shift;
      scale = (nibbles & 15u) | (scale >> 6 & 3u) << 4;
      minimum = (nibbles >> 4 & 15u) | (minimum >> 6 & 3u) << 4;
    }
    // Both products with d and dmin are exact, so the fused sum rounds once, as the reference.
    LoadNibbles<true>(raw, HalfBits(record.x & 0xffffu) * static_cast<float>(scale & 63u),
                      -HalfBits(record.x >> 16) * static_cast<float>(minimum & 63u), w);
  }
};

// A record of 82 bytes, which only 2 divides: upper bits of the codes, a scale each 16, d.
template <>
struct Piece<WeightType::kQ6_K> {
  static constexpr int kValues = 32;
  static __device__ __forceinline__ void Load(const uint4& raw, const void* scales, int64_t piece,
                                              float* w) {
    const auto* record = static_cast<const uint16_t*>(scales) + piece / 8 * 41;
    const int step = static_cast<int>(piece % 8);
    const float d = HalfBits(record[40]);
    const uint32_t pair = record[32 + step], words[4] = {raw.x, raw.y, raw.z, raw.w};
    const uint32_t low_bits = record[4 * step] | static_cast<uint32_t>(record[4 * step + 1]) << 16;
    const uint32_t high_bits = record[4 * step + 2] | static_cast<uint32_t>(record[4 * step + 3])
                                                          << 16;
    // d times a scale, times a code: all exact.
    const float low_scale = d * static_cast<float>(static_cast<int8_t>(pair)),
                high_scale = d * static_cast<float>(static_cast<int8_t>(pair >> 8));
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const uint32_t byte = words[i / 4] >> (8 * (i % 4));
      const uint32_t low = (byte & 15u) | (low_bits >> (2 * i) & 3u) << 4,
                     high = (byte >> 4 & 15u) | (high_bits >> (2 * i) & 3u) << 4;
      w[i] = low_scale * (static_cast<float>(low) - 32.0f);
      w[i + 16] = high_scale * (static_cast<float>(high) - 32.0f);
    }
  }
};

// Calls f.template operator()<type>() for the weight's type: enum to template, once a launch.
template <typename F>
void DispatchWeight(WeightType type, F f) {
  switch (type) {
    case WeightType::kF32:
      return f.template operator()<WeightType::kF32>();
    case WeightType::kF16:
      return f.template operator()<WeightType::kF16>();
    case WeightType::kBF16:
      return f.template operator()<WeightType::kBF16>();
    case WeightType::kQ8_0:
      return f.template operator()<WeightType::kQ8_0>();
    case WeightType::kQ4_0:
      return f.template operator()<WeightType::kQ4_0>();
    case WeightType::kQ4_1:
      return f.template operator()<WeightType::kQ4_1>();
    case WeightType::kQ4_K:
      return f.template operator()<WeightType::kQ4_K>();
    case WeightType::kQ6_K:
      return f.template operator()<WeightType::kQ6_K>();
  }
}

}  // namespace tailor::cuda
