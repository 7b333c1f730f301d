// The loop of ScorePage: included once per SIMD level and compiled with that level's flags. Written
// on the compiler's own vectors, so one source serves all; -ffp-contract=off keeps multiplication
// and addition apart on all of them, so all give the same bits.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <cstring>

#include "kvstore/select/score.h"

namespace tailor {
namespace {

typedef float Floats16 __attribute__((vector_size(64)));

// 16 codes as floats. (gcc 12 takes __builtin_convertvector from bytes to floats one by one.)
inline void Widen(const int8_t* codes, Floats16* out) {
#if defined(__AVX512F__)
  *out = (Floats16)_mm512_cvtepi32_ps(
      _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes))));
#elif defined(__AVX2__)
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
  const __m256 halves[2] = {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
                            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
  std::memcpy(out, halves, sizeof(*out));
#else
  for (int i = 0; i < 16; ++i) (*out)[i] = static_cast<float>(codes[i]);
#endif
}

inline void ScorePageLoop(std::span<const ChannelTerm> terms, float* scores) {
  constexpr int kVectors = 4;  // sums kept in registers
  for (int first = 0; first < kPageTokens; first += kVectors * 16) {
    Floats16 sums[kVectors] = {};
    for (const ChannelTerm& term : terms) {
      for (int v = 0; v < kVectors; ++v) {
        Floats16 codes;
        Widen(term.codes + first + v * 16, &codes);
        sums[v] += term.weight * codes;
      }
    }
    std::memcpy(scores + first, sums, sizeof(sums));
  }
}

}  // namespace
}  // namespace tailor
