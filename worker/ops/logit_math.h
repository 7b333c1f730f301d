// The arithmetic of ReduceLogits, the same for kernels, SIMD levels and the sampler: operations
// that are rounded one by one, and one order of sums.
//
// A sum's order: a unit is kLogitUnit tokens, token i in lane i % kLogitLanes; a lane adds its
// terms in sequence, then lanes l and l + 16 are added, l and l + 8, 4, 2, 1. A piece adds its
// units in sequence, a row its pieces, each times e^(its maximum - the row's).
#pragma once

#include <cstdint>
#include <cstring>

#include "common/types.h"

#ifdef __CUDACC__
#define TS_LOGIT_FN __host__ __device__ __forceinline__
#else
// Never a function of its own: the linker would take one SIMD level's for all.
#define TS_LOGIT_FN __attribute__((always_inline)) inline
#endif

namespace tailor {

struct LogitAdjustment {
  TokenId token = 0;
  float repetition = 1;  // > 0
  float subtract = 0;
};

struct LogitCandidate {
  TokenId token = 0;
  float value = 0;
  float logit = 0;
};

// Of kLogitPiece tokens in sequence; sums are of e^(x - the piece's own maximum).
struct LogitPieceSums {
  double sum = 0, mass = 0;
  float max_logit = 0, max_value = 0;
};

inline constexpr int32_t kLogitPiece = 2048, kLogitUnit = 256, kLogitLanes = 32;

// Not fused into one operation by nvcc.
TS_LOGIT_FN double PlusRounded(double a, double b) {
#ifdef __CUDA_ARCH__
  return __dadd_rn(a, b);
#else
  return a + b;
#endif
}
TS_LOGIT_FN double TimesRounded(double a, double b) {
#ifdef __CUDA_ARCH__
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}

// e^x for x <= 0, off by less than 2^-46 of itself; 0 below -708 and for NaN. x = n ln2 + r with
// |r| <= ln2 / 2, Taylor's polynomial of degree 11 (what it leaves out is r^12 / 12! < 2^-47, the
// roundings are less than 2^-50), 2^n added to the exponent.
TS_LOGIT_FN double LogitExp(double x) {
  const double inverse[] = {1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320,
                            1.0 / 5040,     1.0 / 720,     1.0 / 120,    1.0 / 24,
                            1.0 / 6,        1.0 / 2,       1.0,          1.0};
  const double to_integer = 0x1.8p52;  // the sum's low bits are n
  const double shifted = PlusRounded(TimesRounded(x, 1.4426950408889634), to_integer);
  const double n = PlusRounded(shifted, -to_integer);
  double r = PlusRounded(x, -TimesRounded(n, 0x1.62e42feep-1));  // exact: 33 bits of ln2
  r = PlusRounded(r, -TimesRounded(n, 0x1.a39ef35793c76p-33));   // the rest of them
  double p = inverse[0];
  for (int i = 1; i < 12; ++i) p = PlusRounded(TimesRounded(p, r), inverse[i]);
  uint64_t bits, exponent;
  memcpy(&bits, &p, sizeof(bits));
  memcpy(&exponent, &shifted, sizeof(exponent));
  bits += exponent << 52;
  memcpy(&p, &bits, sizeof(p));
  return x >= -708.0 ? p : 0.0;
}
// e^(x - max)
TS_LOGIT_FN double LogitTerm(float x, float max) {
  return LogitExp(PlusRounded(static_cast<double>(x), -static_cast<double>(max)));
}

TS_LOGIT_FN float AdjustedLogit(float logit, float repetition, float subtract) {
#ifdef __CUDA_ARCH__
  const float repeated = logit > 0 ? __fdiv_rn(logit, repetition) : __fmul_rn(logit, repetition);
  return __fsub_rn(repeated, subtract);
#else
  return (logit > 0 ? logit / repetition : logit * repetition) - subtract;
#endif
}
TS_LOGIT_FN float LogitValue(float adjusted, float temperature) {
#ifdef __CUDA_ARCH__
  return __fdiv_rn(adjusted, temperature);
#else
  return adjusted / temperature;
#endif
}

// Sorts as values do: NaN as -infinity, -0 equal to 0; never 0.
TS_LOGIT_FN uint32_t ValueRank(float value) {
  const float no_minus = value + 0.0f;
  uint32_t bits;
  memcpy(&bits, &no_minus, sizeof(bits));
  const uint32_t rank = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  return value == value ? rank : 0x007fffffu;
}
// A token in its row: a larger key is better, ties to the lower id. 0 is no token.
TS_LOGIT_FN uint64_t CandidateKey(float value, int32_t token) {
  return static_cast<uint64_t>(ValueRank(value)) << 32 | ~static_cast<uint32_t>(token);
}
TS_LOGIT_FN int32_t TokenOf(uint64_t key) {
  return static_cast<int32_t>(~static_cast<uint32_t>(key));
}
// -0 comes back as 0, NaN as -infinity.
TS_LOGIT_FN float ValueOf(uint64_t key) {
  const auto rank = static_cast<uint32_t>(key >> 32);
  const uint32_t bits = (rank & 0x80000000u) != 0 ? rank ^ 0x80000000u : ~rank;
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

// The first of `count` adjustments, ascending by token, whose token is at least `token`.
TS_LOGIT_FN int32_t FirstFrom(const LogitAdjustment* adjustments, int32_t count, TokenId token) {
  int32_t first = 0;
  while (count > 0) {
    const int32_t half = count / 2;
    const bool below = adjustments[first + half].token < token;
    first = below ? first + half + 1 : first;
    count = below ? count - half - 1 : half;
  }
  return first;
}

}  // namespace tailor
