// Sixteen floats, the unit every CPU kernel is written in. Included once per SIMD level: the
// including file's compile flags choose the implementation, and everything lies in a namespace of
// that level, so that no inline function of one level is linked into another.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "worker/ops/half.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define TS_SIMD_NAMESPACE avx512
#elif defined(__AVX2__)
#define TS_SIMD_NAMESPACE avx2
#else
#define TS_SIMD_NAMESPACE scalar
#endif

namespace tailor::TS_SIMD_NAMESPACE {

#if defined(__AVX512F__)

struct Vec16 {
  __m512 v;
};
inline Vec16 Zero() { return {_mm512_setzero_ps()}; }
inline Vec16 Set(float x) { return {_mm512_set1_ps(x)}; }
inline Vec16 Load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void Store(float* p, Vec16 a) { _mm512_storeu_ps(p, a.v); }
inline Vec16 Add(Vec16 a, Vec16 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec16 Sub(Vec16 a, Vec16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec16 Mul(Vec16 a, Vec16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec16 Div(Vec16 a, Vec16 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vec16 Max(Vec16 a, Vec16 b) { return {_mm512_max_ps(a.v, b.v)}; }
// a * b + c, rounded once.
inline Vec16 MulAdd(Vec16 a, Vec16 b, Vec16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline float MaxLane(Vec16 a) { return _mm512_reduce_max_ps(a.v); }
inline Vec16 RoundToEven(Vec16 a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// a * 2^n for integral n; 0 below the range of float.
inline Vec16 ScaleByPowerOfTwo(Vec16 a, Vec16 n) { return {_mm512_scalef_ps(a.v, n.v)}; }
inline Vec16 LoadBFloat16(const uint16_t* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}
inline Vec16 LoadHalf(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline Vec16 LoadInt8(const int8_t* p) {
  return {_mm512_cvtepi32_ps(
      _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}
// Low and high nibbles of 16 bytes.
inline void LoadNibbles(const uint8_t* p, Vec16* low, Vec16* high) {
  const __m512i bytes =
      _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  low->v = _mm512_cvtepi32_ps(_mm512_and_si512(bytes, _mm512_set1_epi32(15)));
  high->v = _mm512_cvtepi32_ps(_mm512_srli_epi32(bytes, 4));
}

inline Vec16 ToFloat(__m128i bytes) { return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))}; }

#elif defined(__AVX2__)

struct Vec16 {
  __m256 a, b;
};
inline Vec16 Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline Vec16 Set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Vec16 Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void Store(float* p, Vec16 x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
inline Vec16 Add(Vec16 x, Vec16 y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline Vec16 Sub(Vec16 x, Vec16 y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline Vec16 Mul(Vec16 x, Vec16 y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline Vec16 Div(Vec16 x, Vec16 y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline Vec16 Max(Vec16 x, Vec16 y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline Vec16 MulAdd(Vec16 x, Vec16 y, Vec16 z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline float MaxLane(Vec16 x) {
  alignas(32) float lanes[8];
  _mm256_store_ps(lanes, _mm256_max_ps(x.a, x.b));
  float largest = lanes[0];
  for (int i = 1; i < 8; ++i) largest = lanes[i] > largest ? lanes[i] : largest;
  return largest;
}
inline Vec16 RoundToEven(Vec16 x) {
  constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.a, kMode), _mm256_round_ps(x.b, kMode)};
}
// 2^n; infinity from 128 on, where the exponent would run into the sign bit; 0 below -126.
inline __m256 PowerOfTwo(__m256 n) {
  const __m256i bounded = _mm256_cvtps_epi32(_mm256_min_ps(n, _mm256_set1_ps(128.0f)));
  const __m256i exponent = _mm256_add_epi32(bounded, _mm256_set1_epi32(127));
  const __m256 power = _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
  return _mm256_and_ps(power, _mm256_cmp_ps(n, _mm256_set1_ps(-127.0f), _CMP_GT_OQ));
}
inline Vec16 ScaleByPowerOfTwo(Vec16 x, Vec16 n) {
  return {_mm256_mul_ps(x.a, PowerOfTwo(n.a)), _mm256_mul_ps(x.b, PowerOfTwo(n.b))};
}
inline __m256 WidenBFloat16(__m128i bits) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline Vec16 LoadBFloat16(const uint16_t* p) {
  return {WidenBFloat16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          WidenBFloat16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
inline Vec16 LoadHalf(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
inline Vec16 LoadInt8(const int8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
}
inline void LoadNibbles(const uint8_t* p, Vec16* low, Vec16* high) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  const __m256i first = _mm256_cvtepu8_epi32(bytes);
  const __m256i second = _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8));
  const __m256i mask = _mm256_set1_epi32(15);
  low->a = _mm256_cvtepi32_ps(_mm256_and_si256(first, mask));
  low->b = _mm256_cvtepi32_ps(_mm256_and_si256(second, mask));
  high->a = _mm256_cvtepi32_ps(_mm256_srli_epi32(first, 4));
  high->b = _mm256_cvtepi32_ps(_mm256_srli_epi32(second, 4));
}

inline Vec16 ToFloat(__m128i bytes) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)))};
}

#else

struct Vec16 {
  float v[16];
};
template <typename F>
inline Vec16 Map(F f) {
  Vec16 out;
  for (int i = 0; i < 16; ++i) out.v[i] = f(i);
  return out;
}
inline Vec16 Zero() { return Map([](int) { return 0.0f; }); }
inline Vec16 Set(float x) { return Map([x](int) { return x; }); }
inline Vec16 Load(const float* p) { return Map([p](int i) { return p[i]; }); }
inline void Store(float* p, Vec16 a) { std::memcpy(p, a.v, sizeof(a.v)); }
inline Vec16 Add(Vec16 a, Vec16 b) { return Map([&](int i) { return a.v[i] + b.v[i]; }); }
inline Vec16 Sub(Vec16 a, Vec16 b) { return Map([&](int i) { return a.v[i] - b.v[i]; }); }
inline Vec16 Mul(Vec16 a, Vec16 b) { return Map([&](int i) { return a.v[i] * b.v[i]; }); }
inline Vec16 Div(Vec16 a, Vec16 b) { return Map([&](int i) { return a.v[i] / b.v[i]; }); }
inline Vec16 Max(Vec16 a, Vec16 b) {
  return Map([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
// Rounded twice: without hardware FMA the fused form would be a library call.
inline Vec16 MulAdd(Vec16 a, Vec16 b, Vec16 c) {
  return Map([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
inline float MaxLane(Vec16 a) {
  float largest = a.v[0];
  for (int i = 1; i < 16; ++i) largest = a.v[i] > largest ? a.v[i] : largest;
  return largest;
}
inline Vec16 RoundToEven(Vec16 a) {
  return Map([&](int i) { return std::nearbyint(a.v[i]); });
}
inline Vec16 ScaleByPowerOfTwo(Vec16 a, Vec16 n) {
  return Map([&](int i) {
    return n.v[i] < -126.0f ? 0.0f : std::ldexp(a.v[i], static_cast<int>(n.v[i]));
  });
}
inline float FromBits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}
inline Vec16 LoadBFloat16(const uint16_t* p) {
  return Map([p](int i) { return FromBits(static_cast<uint32_t>(p[i]) << 16); });
}
inline Vec16 LoadHalf(const uint16_t* p) { return Map([p](int i) { return HalfToFloat(p[i]); }); }
inline Vec16 LoadInt8(const int8_t* p) {
  return Map([p](int i) { return static_cast<float>(p[i]); });
}
inline void LoadNibbles(const uint8_t* p, Vec16* low, Vec16* high) {
  *low = Map([p](int i) { return static_cast<float>(p[i] & 15); });
  *high = Map([p](int i) { return static_cast<float>(p[i] >> 4); });
}
struct Bytes16 {
  uint8_t v[16];
};
inline Vec16 ToFloat(Bytes16 bytes) {
  return Map([&](int i) { return static_cast<float>(bytes.v[i]); });
}

#endif

// Sixteen bytes: codes of 16 outputs before they become floats.
#if defined(__AVX2__)
using Bytes16 = __m128i;
inline Bytes16 LoadBytes(const std::byte* p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}
inline Bytes16 Or(Bytes16 a, Bytes16 b) { return _mm_or_si128(a, b); }
// Of each byte, bits [kFrom, kFrom + kBits) at kTo, zeros elsewhere. The shift is of pairs of
// bytes: the mask takes away what came from the other one.
template <int kFrom, int kBits, int kTo>
inline Bytes16 Move(Bytes16 a) {
  if constexpr (kFrom > kTo) a = _mm_srli_epi16(a, kFrom - kTo);
  if constexpr (kFrom < kTo) a = _mm_slli_epi16(a, kTo - kFrom);
  return _mm_and_si128(a, _mm_set1_epi8(static_cast<char>(((1 << kBits) - 1) << kTo)));
}
#else
template <typename F>
inline Bytes16 MapBytes(F f) {
  Bytes16 out;
  for (int i = 0; i < 16; ++i) out.v[i] = static_cast<uint8_t>(f(i));
  return out;
}
inline Bytes16 LoadBytes(const std::byte* p) {
  Bytes16 out;
  std::memcpy(out.v, p, sizeof(out.v));
  return out;
}
inline Bytes16 Or(Bytes16 a, Bytes16 b) {
  return MapBytes([&](int i) { return a.v[i] | b.v[i]; });
}
template <int kFrom, int kBits, int kTo>
inline Bytes16 Move(Bytes16 a) {
  return MapBytes([&](int i) { return (a.v[i] >> kFrom & ((1 << kBits) - 1)) << kTo; });
}
#endif

// e^x within 2 ulp for x in [-87, 88]; below that less than 2^-125, above 89 infinity. Source:
// x = n ln2 + r, |r| <= ln2 / 2, a degree-6 polynomial of e^r (Cephes' expf), scaled by 2^n.
inline Vec16 ApproxExp(Vec16 x) {
  x = Max(x, Set(-104.0f));
  const Vec16 n = RoundToEven(Mul(x, Set(1.44269504088896341f)));
  Vec16 r = MulAdd(n, Set(-0.693359375f), x);
  r = MulAdd(n, Set(2.12194440e-4f), r);
  Vec16 p = Set(1.9875691500e-4f);
  p = MulAdd(p, r, Set(1.3981999507e-3f));
  p = MulAdd(p, r, Set(8.3334519073e-3f));
  p = MulAdd(p, r, Set(4.1665795894e-2f));
  p = MulAdd(p, r, Set(1.6666665459e-1f));
  p = MulAdd(p, r, Set(5.0000001201e-1f));
  p = MulAdd(p, Mul(r, r), Add(r, Set(1.0f)));
  return ScaleByPowerOfTwo(p, n);
}

}  // namespace tailor::TS_SIMD_NAMESPACE
