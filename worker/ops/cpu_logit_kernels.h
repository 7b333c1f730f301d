// The inner loops of ReduceLogits at one SIMD level; included by cpu_kernels_impl.h alone. Plain
// loops over arrays of fixed length, which the compiler turns into vectors: the same operations in
// the same order at every level (logit_math.h).
#pragma once

#include <cstring>
#include <limits>

#include "worker/ops/cpu_kernels.h"
#include "worker/ops/logit_math.h"
#include "worker/ops/vec16.h"

namespace tailor::TS_SIMD_NAMESPACE {

inline float LogitMax(const float* x) {
  Vec16 max = Set(-std::numeric_limits<float>::infinity());
  // Of a NaN and a number Max gives its second operand.
  for (int i = 0; i < kLogitPiece; i += 16) max = Max(Load(x + i), max);
  return MaxLane(max);
}

void LogitSum(const float* x, float* max, double* sum) {
  const float largest = LogitMax(x);
  double units = 0;
  for (int unit = 0; unit < kLogitPiece; unit += kLogitUnit) {
    double lanes[kLogitLanes] = {};
    for (int i = 0; i < kLogitUnit; i += kLogitLanes) {
      for (int l = 0; l < kLogitLanes; ++l) lanes[l] += LogitTerm(x[unit + i + l], largest);
    }
    for (int half = kLogitLanes / 2; half > 0; half /= 2) {
      for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
    }
    units += lanes[0];
  }
  *max = largest;
  *sum = units;
}

void LogitDivide(float temperature, float* values) {
  for (int i = 0; i < kLogitPiece; ++i) values[i] /= temperature;
}

int32_t LogitKeys(const float* values, int32_t count, int32_t first, uint32_t bound,
                  uint64_t* keys) {
  uint32_t above = 0;
  if (count == kLogitKeys) {
    for (int i = 0; i < kLogitKeys; ++i) above |= ValueRank(values[i]) > bound ? 1 : 0;
    if (above == 0) return 0;
  }
  int32_t found = 0;
  for (int32_t i = 0; i < count; ++i) {
    if (ValueRank(values[i]) > bound) keys[found++] = CandidateKey(values[i], first + i);
  }
  return found;
}

}  // namespace tailor::TS_SIMD_NAMESPACE
