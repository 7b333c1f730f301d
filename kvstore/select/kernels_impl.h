// The loops of kernels.h: included once per SIMD level and compiled with that level's flags. Floats
// are written on the compiler's own vectors, so one source serves all; -ffp-contract=off keeps
// multiplication and addition apart. Only what gcc 12 takes element by element has intrinsics.
#pragma once

#include <immintrin.h>

#include <cstring>
#include <limits>

#include "kvstore/select/kernels.h"
#include "kvstore/select/key_codes.h"

namespace tailor {
namespace {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;
#endif
typedef float Vector __attribute__((vector_size(kVectorBytes)));
inline constexpr int kParts = 64 / kVectorBytes;

// 16 floats in the machine's own vectors: gcc 12 takes comparisons of wider ones lane by lane.
struct Floats16 {
  Vector part[kParts];
};

template <typename F>
inline Floats16 Each(F f) {
  // Spelled out: gcc 12 keeps an array filled by a loop in memory.
  if constexpr (kParts == 1) {
    return {{f(0)}};
  } else if constexpr (kParts == 2) {
    return {{f(0), f(1)}};
  } else {
    return {{f(0), f(1), f(2), f(3)}};
  }
}
inline Floats16 All(float x) {
  return Each([&](int) { return x - Vector{}; });
}
inline Floats16 operator+(const Floats16& a, const Floats16& b) {
  return Each([&](int i) { return a.part[i] + b.part[i]; });
}
inline Floats16 operator*(const Floats16& a, const Floats16& b) {
  return Each([&](int i) { return a.part[i] * b.part[i]; });
}
// b where a is not a number.
inline Floats16 Larger(const Floats16& a, const Floats16& b) {
  return Each([&](int i) { return a.part[i] > b.part[i] ? a.part[i] : b.part[i]; });
}
inline Floats16 Smaller(const Floats16& a, const Floats16& b) {
  return Each([&](int i) { return a.part[i] < b.part[i] ? a.part[i] : b.part[i]; });
}
// Part by part: one memcpy of 64 bytes would go through memory on AVX2.
inline Floats16 Load(const void* from) {
  return Each([&](int i) {
    Vector to;
    std::memcpy(&to, static_cast<const char*>(from) + i * kVectorBytes, kVectorBytes);
    return to;
  });
}
inline void Store(const Floats16& from, void* to) {
  for (int i = 0; i < kParts; ++i) {
    std::memcpy(static_cast<char*>(to) + i * kVectorBytes, &from.part[i], kVectorBytes);
  }
}

inline Floats16 Widen(const int16_t* from) {
#if defined(__AVX512F__)
  return {{(Vector)_mm512_cvtepi32_ps(
      _mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))))}};
#elif defined(__AVX2__)
  return Each([&](int i) {
    const __m128i* half = reinterpret_cast<const __m128i*>(from) + i;
    return (Vector)_mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm_loadu_si128(half)));
  });
#else
  float to[kLanes];
  for (int i = 0; i < kLanes; ++i) to[i] = static_cast<float>(from[i]);
  return Load(to);
#endif
}

inline Floats16 Widen(const BFloat16* from) {
#if defined(__AVX512F__)
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return {{(Vector)_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16)}};
#elif defined(__AVX2__)
  return Each([&](int i) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from) + i);
    return (Vector)_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16);
  });
#else
  float to[kLanes];
  for (int i = 0; i < kLanes; ++i) to[i] = ToFloat(from[i]);
  return Load(to);
#endif
}

// The bits of x, made an integer towards zero, as floats. x within an int32.
inline Floats16 TruncatedBits(const Floats16& x) {
#if defined(__AVX512F__)
  return Each([&](int i) { return (Vector)_mm512_cvttps_epi32((__m512)x.part[i]); });
#elif defined(__AVX2__)
  return Each([&](int i) { return (Vector)_mm256_cvttps_epi32((__m256)x.part[i]); });
#else
  return Each([&](int i) { return (Vector)_mm_cvttps_epi32((__m128)x.part[i]); });
#endif
}

// Lanes by halves: 8 + 8, 4 + 4, 2 + 2, 1 + 1.
template <typename F>
inline float Reduce(const Floats16& x, F f) {
  typedef float Vector4 __attribute__((vector_size(16)));
  Vector4 quarters[4];
  Store(x, quarters);
  const Vector4 four = f(f(quarters[0], quarters[2]), f(quarters[1], quarters[3]));
  return f(f(four[0], four[2]), f(four[1], four[3]));
}
inline float Sum(const Floats16& x) {
  return Reduce(x, [](auto a, auto b) { return a + b; });
}
inline float Largest(const Floats16& x) {
  return Reduce(x, [](auto a, auto b) { return a > b ? a : b; });
}

inline Floats16 Exp2Lanes(const Floats16& x) {
  const Floats16 y = Larger(Smaller(x, All(kExp2Highest)), All(kExp2Lowest));
  return TruncatedBits(y * All(kExponentStep) + All(127 * kExponentStep));
}

inline QueryTerms WeighLoop(const float* q, const float* scale, const float* min, int32_t padded,
                            int32_t limit, int8_t* weights) {
  Floats16 largest = All(0), bias = All(0);
  for (int32_t c = 0; c < padded; c += kLanes) {
    const Floats16 query = Load(q + c), weight = query * Load(scale + c);
    largest = Larger(Larger(weight, weight * All(-1)), largest);
    bias = bias + query * Load(min + c);
  }
  const auto top = static_cast<float>(limit);
  const float max = Largest(largest);
  const float inverse = max > 0 ? top / max : 0.0f;
  for (int32_t c = 0; c < padded; c += kLanes) {
    Floats16 weight = Load(q + c) * Load(scale + c) * All(inverse);
    weight = Larger(Smaller(weight, All(top)), All(-top));  // rounding of `inverse`, and NaN
    weight = weight + All(12582912.0f);  // 1.5 * 2^23: rounds half to even into the low bits
    int32_t bits[kLanes];
    Store(weight, bits);
    for (int i = 0; i < kLanes; ++i) weights[c + i] = static_cast<int8_t>(bits[i]);
  }
  return {.unit = max / top, .bias = Sum(bias)};
}

#if defined(__AVX512BW__)
typedef __m512i Bytes;
inline Bytes LoadBytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
inline Bytes LowHalves(Bytes x) { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
inline Bytes HighHalves(Bytes x) { return LowHalves(_mm512_srli_epi16(x, 4)); }
inline Bytes PairLow(Bytes a, Bytes b) { return _mm512_unpacklo_epi8(a, b); }
inline Bytes PairHigh(Bytes a, Bytes b) { return _mm512_unpackhi_epi8(a, b); }
inline Bytes MultiplyAdd(Bytes sum, Bytes codes, int16_t weights) {
  return _mm512_add_epi16(sum, _mm512_maddubs_epi16(codes, _mm512_set1_epi16(weights)));
}
inline void StoreBytes(Bytes x, int16_t* to) { _mm512_storeu_si512(to, x); }
#elif defined(__AVX2__)
typedef __m256i Bytes;
inline Bytes LoadBytes(const uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
inline Bytes LowHalves(Bytes x) { return _mm256_and_si256(x, _mm256_set1_epi8(15)); }
inline Bytes HighHalves(Bytes x) { return LowHalves(_mm256_srli_epi16(x, 4)); }
inline Bytes PairLow(Bytes a, Bytes b) { return _mm256_unpacklo_epi8(a, b); }
inline Bytes PairHigh(Bytes a, Bytes b) { return _mm256_unpackhi_epi8(a, b); }
inline Bytes MultiplyAdd(Bytes sum, Bytes codes, int16_t weights) {
  return _mm256_add_epi16(sum, _mm256_maddubs_epi16(codes, _mm256_set1_epi16(weights)));
}
inline void StoreBytes(Bytes x, int16_t* to) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), x);
}
#endif

// sums[i][t] = sum over channels of weight * code, exactly: |code * weight| pairs stay below 3811
// and whole sums within WeightLimit's bound.
template <int kQueries>
inline void SumCodes(std::span<const uint8_t* const> codes, const int8_t* weights, int32_t stride,
                     int16_t sums[kQueries][kPageTokens]) {
#if defined(__AVX2__)
  constexpr int kWidth = sizeof(Bytes);
  for (int first = 0; first < kCodeBytes; first += kWidth) {
    Bytes sum[kQueries][4] = {};
    for (size_t c = 0; c < codes.size(); c += 2) {
      const Bytes a = LoadBytes(codes[c] + first), b = LoadBytes(codes[c + 1] + first);
      const Bytes a0 = LowHalves(a), a1 = HighHalves(a), b0 = LowHalves(b), b1 = HighHalves(b);
      const Bytes pairs[4] = {PairLow(a0, b0), PairHigh(a0, b0), PairLow(a1, b1), PairHigh(a1, b1)};
      for (int i = 0; i < kQueries; ++i) {
        int16_t both;  // both channels' weights, the even one in the low byte
        std::memcpy(&both, weights + i * stride + c, sizeof(both));
        for (int v = 0; v < 4; ++v) sum[i][v] = MultiplyAdd(sum[i][v], pairs[v], both);
      }
    }
    for (int i = 0; i < kQueries; ++i) {
      for (int v = 0; v < 4; ++v) StoreBytes(sum[i][v], sums[i] + v * 32 + first / 2);
    }
  }
#else
  for (int i = 0; i < kQueries; ++i) std::fill_n(sums[i], kPageTokens, int16_t{0});
  for (size_t c = 0; c < codes.size(); ++c) {
    int16_t code[kPageTokens];
    for (int t = 0; t < kPageTokens; ++t) code[t] = static_cast<int16_t>(CodeOf(codes[c], t));
    for (int i = 0; i < kQueries; ++i) {
      const int16_t weight = weights[i * stride + static_cast<int32_t>(c)];
      for (int t = 0; t < kPageTokens; ++t) {
        sums[i][t] = static_cast<int16_t>(sums[i][t] + weight * code[t]);
      }
    }
  }
#endif
}

template <int kQueries>
inline void ScoreQueries(std::span<const uint8_t* const> codes, const int8_t* weights,
                         int32_t weight_stride, const QueryTerms* terms, float* scores,
                         int64_t score_stride) {
  alignas(64) int16_t sums[kQueries][kPageTokens];
  SumCodes<kQueries>(codes, weights, weight_stride, sums);
  for (int i = 0; i < kQueries; ++i) {
    const Floats16 unit = All(terms[i].unit), bias = All(terms[i].bias);
    for (int t = 0; t < kPageTokens; t += kLanes) {
      Store(unit * Widen(sums[i] + t) + bias, scores + i * score_stride + t);
    }
  }
}

inline void ScorePageLoop(std::span<const uint8_t* const> codes, const int8_t* weights,
                          int32_t weight_stride, std::span<const QueryTerms> terms, float* scores,
                          int64_t score_stride) {
  static constexpr decltype(&ScoreQueries<1>) kByQueries[kQueryBlock] = {
      ScoreQueries<1>, ScoreQueries<2>, ScoreQueries<3>, ScoreQueries<4>};
  kByQueries[terms.size() - 1](codes, weights, weight_stride, terms.data(), scores, score_stride);
}

inline ScoreShare ExponentsLoop(float* scores, int64_t n) {
  Floats16 largest = All(-std::numeric_limits<float>::infinity()), sum = All(0);
  for (int64_t t = 0; t < n; t += kLanes) largest = Larger(Load(scores + t), largest);
  const float max = Largest(largest);
  for (int64_t first = 0; first < n; first += kPageTokens) {
    const int64_t end = std::min<int64_t>(first + kPageTokens, n);
    Floats16 page = All(0);
    for (int64_t t = first; t < end; t += kLanes) {
      const Floats16 exponent = Exp2Lanes(Load(scores + t) + All(-max));
      Store(exponent, scores + t);
      page = page + exponent;
    }
    sum = sum + page;
  }
  return {.largest = max, .factor = 1.0f / Sum(sum)};
}

inline void AddLoop(const float* scores, float factor, float* total, int64_t n) {
  for (int64_t t = 0; t < n; t += kLanes) {
    Store(Load(total + t) + All(factor) * Load(scores + t), total + t);
  }
}

inline float DotLoop(const float* q, const BFloat16* key, int32_t head_dim) {
  Floats16 sum = All(0);
  for (int32_t c = 0; c < head_dim; c += kLanes) sum = sum + Load(q + c) * Widen(key + c);
  return Sum(sum);
}

inline constexpr SelectKernels kLoops = {.weigh = WeighLoop,
                                         .score_page = ScorePageLoop,
                                         .exponents = ExponentsLoop,
                                         .add = AddLoop,
                                         .dot = DotLoop};

}  // namespace
}  // namespace tailor
