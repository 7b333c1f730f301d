// Arithmetic that kernels and host tests share: marked for both compilers under nvcc, plain C++
// elsewhere. Header-only, and free of everything nvcc need not see.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define TS_HD __host__ __device__ __forceinline__
// A table that kernels index, and a function that does: under nvcc the device's alone.
#define TS_TABLE static __constant__ const
#define TS_TABLE_USER __device__ __forceinline__
#else
#define TS_HD inline
#define TS_TABLE inline constexpr
#define TS_TABLE_USER inline
#endif
#ifdef __CUDA_ARCH__
#define TS_UNROLL _Pragma("unroll")
#else
#define TS_UNROLL
#endif

namespace tailor::cuda {

TS_HD uint32_t FloatBits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}
TS_HD float BitsFloat(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

// common/bfloat16.h on its bits: to nearest, ties to even, NaN quiet.
TS_HD uint16_t ToBf16Bits(float value) {
  uint32_t bits = FloatBits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  bits += 0x7fffu + ((bits >> 16) & 1u);
  return static_cast<uint16_t>(bits >> 16);
}
TS_HD float FromBf16Bits(uint16_t bits) { return BitsFloat(static_cast<uint32_t>(bits) << 16); }

// Multiplication and addition with a rounding each: nvcc fuses plain ones.
TS_HD float MulRounded(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}
TS_HD float AddRounded(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}

TS_HD float DivRounded(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fdiv_rn(a, b);
#else
  return a / b;
#endif
}

// Keys that sort as scores do in kvstore/select/top_k.h: NaN as -infinity, -0 equal to 0.
TS_HD uint32_t ScoreKey(float score) {
  if (score != score) return 0x007fffffu;  // -infinity
  const uint32_t bits = FloatBits(score + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
TS_HD float KeyScore(uint32_t key) {
  return BitsFloat((key & 0x80000000u) != 0 ? key ^ 0x80000000u : ~key);
}

}  // namespace tailor::cuda
