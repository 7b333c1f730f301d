// The kernels of one SIMD level; included by cpu_kernels_<level>.cc alone. See cpu_kernels.h.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "worker/ops/cpu_kernels.h"
#include "worker/ops/cpu_logit_kernels.h"
#include "worker/ops/cpu_weight_kernels.h"
#include "worker/ops/vec16.h"

namespace tailor::TS_SIMD_NAMESPACE {

// --- pointwise -----------------------------------------------------------------------------------

void RmsNormRow(const float* x, const float* gain, float eps, int64_t n, float* out) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * x[i];
  const float scale = static_cast<float>(1.0 / std::sqrt(sum / static_cast<double>(n) + eps));
  for (int64_t i = 0; i < n; ++i) out[i] = x[i] * scale * gain[i];
}

void SiluMul(float* gate, const float* up, int64_t n) {
  const auto step = [](Vec16 g, Vec16 u) {
    return Mul(Div(g, Add(Set(1.0f), ApproxExp(Sub(Zero(), g)))), u);
  };
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) Store(gate + i, step(Load(gate + i), Load(up + i)));
  if (i == n) return;
  float g[kLanes] = {}, u[kLanes] = {};
  std::memcpy(g, gate + i, (n - i) * sizeof(float));
  std::memcpy(u, up + i, (n - i) * sizeof(float));
  Store(g, step(Load(g), Load(u)));
  std::memcpy(gate + i, g, (n - i) * sizeof(float));
}

// --- attention -----------------------------------------------------------------------------------

#if defined(__AVX512F__)
// 16 rows of 16 floats -> 16 columns of 16 floats.
inline void Transpose16(__m512 r[16]) {
  __m512 t[16];
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 4; ++i) {
    r[4 * i] = _mm512_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
    r[4 * i + 1] = _mm512_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
    r[4 * i + 2] = _mm512_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
    r[4 * i + 3] = _mm512_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd);
    r[i + 4] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xdd);
  }
}
#endif

// 16 channels of 16 rows, as columns of `keys`.
inline void TransposeHalf(const uint16_t* const* rows, int32_t tokens, int32_t channel,
                          float* keys) {
  for (int i = 0; i < 16; ++i) {
    float lanes[kLanes] = {};
    if (i < tokens) Store(lanes, LoadBFloat16(rows[i] + channel));
    for (int c = 0; c < kLanes; ++c) keys[(channel + c) * kKeyStride + i] = lanes[c];
  }
}

// 32 channels of 16 rows, as columns of `keys`: pairs of channels travel as one 32-bit lane.
inline void TransposeKeys(const uint16_t* const* rows, int32_t tokens, int32_t channel,
                          float* keys) {
#if defined(__AVX512F__)
  __m512 r[16];
  for (int i = 0; i < 16; ++i) {
    r[i] = i < tokens ? _mm512_loadu_ps(rows[i] + channel) : _mm512_setzero_ps();
  }
  Transpose16(r);
  const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  for (int i = 0; i < 16; ++i) {
    const __m512i pair = _mm512_castps_si512(r[i]);
    float* column = keys + (channel + 2 * i) * kKeyStride;
    _mm512_storeu_si512(column, _mm512_slli_epi32(pair, 16));
    _mm512_storeu_si512(column + kKeyStride, _mm512_and_si512(pair, high));
  }
#else
  TransposeHalf(rows, tokens, channel, keys);
  TransposeHalf(rows, tokens, channel + kLanes, keys);
#endif
}

void LoadRows(const BFloat16* const* rows, int32_t tokens, int32_t head_dim, KvTile* tile) {
  const auto* bits = reinterpret_cast<const uint16_t* const*>(rows);
  tile->tokens = tokens;
  tile->rows = rows;
  for (int32_t first = 0; first < kTileTokens; first += 16) {
    const int32_t count = std::clamp(tokens - first, 0, 16);
    int32_t c = 0;
    for (; c + 32 <= head_dim; c += 32) {
      TransposeKeys(bits + first, count, c, tile->keys + first);
    }
    if (c < head_dim) TransposeHalf(bits + first, count, c, tile->keys + first);
  }
}

// Values to fp32: pays when many query rows read them.
void WidenValues(int32_t head_dim, KvTile* tile) {
  const auto* bits = reinterpret_cast<const uint16_t* const*>(tile->rows);
  for (int32_t t = 0; t < tile->tokens; ++t) {
    float* value = tile->values + t * head_dim;
    for (int32_t c = 0; c < head_dim; c += 16) {
      Store(value + c, LoadBFloat16(bits[t] + head_dim + c));
    }
  }
  tile->rows = nullptr;
}

// 16 codes from `bits` planes of 16 bits: plane b holds bit b of every code.
inline Vec16 LoadCodes(const uint16_t* planes, int bits) {
  Vec16 code = Zero();
  for (int b = 0; b < bits; ++b) {
    const float weight = static_cast<float>(1 << b);
#if defined(__AVX512F__)
    code.v = _mm512_mask_add_ps(code.v, planes[b], code.v, _mm512_set1_ps(weight));
#else
    float lanes[16];
    for (int i = 0; i < 16; ++i) lanes[i] = (planes[b] >> i) & 1 ? weight : 0.0f;
    code = Add(code, Load(lanes));
#endif
  }
  return code;
}

// `count` codes in groups of 64 with (min, scale) each -> floats.
inline void Dequantize(const uint16_t* codes, const BFloat16* params, int32_t count, int bits,
                       float* out) {
  for (int32_t first = 0; first < count; first += 16) {
    const BFloat16* param = params + first / kQuantGroup * 2;
    const Vec16 code = LoadCodes(codes + first / 16 * bits, bits);
    Store(out + first, MulAdd(code, Set(ToFloat(param[1])), Set(ToFloat(param[0]))));
  }
}

void LoadPage(const std::byte* page, const QuantizedPageShape& shape, KvTile* tile) {
  const int32_t d = shape.head_dim;
  tile->tokens = kTileTokens;
  tile->rows = nullptr;
  const auto* k_codes = reinterpret_cast<const uint16_t*>(page);
  const auto* k_params = reinterpret_cast<const BFloat16*>(page + shape.CodeBytes());
  const std::byte* v = page + shape.CodeBytes() + shape.ParamBytes();
  const auto* v_codes = reinterpret_cast<const uint16_t*>(v);
  const auto* v_params = reinterpret_cast<const BFloat16*>(v + shape.CodeBytes());
  for (int32_t c = 0; c < d; ++c) {
    Dequantize(k_codes + c * kTileTokens / 16 * shape.bits,
               k_params + c * kTileTokens / kQuantGroup * 2, kTileTokens, shape.bits,
               tile->keys + c * kKeyStride);
  }
  for (int32_t t = 0; t < kTileTokens; ++t) {
    Dequantize(v_codes + t * d / 16 * shape.bits, v_params + t * d / kQuantGroup * 2, d,
               shape.bits, tile->values + t * d);
  }
}

constexpr int kTileVectors = kTileTokens / kLanes;

// scores[r][t] = scale * q[r] . key[t], kRows rows at a time.
template <int kRows>
inline void Scores(const KvTile& tile, const float* q, int32_t head_dim, float scale,
                   float* scores) {
  Vec16 acc[kRows][kTileVectors];
  for (auto& row : acc) {
    for (Vec16& a : row) a = Zero();
  }
  for (int32_t c = 0; c < head_dim; ++c) {
    const float* keys = tile.keys + c * kKeyStride;
    Vec16 query[kRows];
    for (int r = 0; r < kRows; ++r) query[r] = Set(q[r * head_dim + c]);
    for (int j = 0; j < kTileVectors; ++j) {
      const Vec16 key = Load(keys + j * kLanes);
      for (int r = 0; r < kRows; ++r) acc[r][j] = MulAdd(key, query[r], acc[r][j]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int j = 0; j < kTileVectors; ++j) {
      Store(scores + r * kTileTokens + j * kLanes, Mul(acc[r][j], Set(scale)));
    }
  }
}

// Turns a row of scores into e^(s - max) and updates the state; returns what the output so far is
// to be scaled by.
inline float Softmax(float* scores, int32_t visible, SoftmaxState* state) {
  if (visible <= 0) {
    std::memset(scores, 0, kTileTokens * sizeof(float));
    return 1.0f;
  }
  for (int32_t t = visible; t < kTileTokens; ++t) {
    scores[t] = -std::numeric_limits<float>::infinity();
  }
  Vec16 largest = Load(scores);
  for (int j = 1; j < kTileVectors; ++j) largest = Max(largest, Load(scores + j * kLanes));
  const float max = std::max(state->max, MaxLane(largest));
  Vec16 sum = Zero();
  for (int j = 0; j < kTileVectors; ++j) {
    const Vec16 e = ApproxExp(Sub(Load(scores + j * kLanes), Set(max)));
    Store(scores + j * kLanes, e);
    sum = Add(sum, e);
  }
  float lanes[kLanes];
  Store(lanes, sum);
  float total = 0;
  for (const float lane : lanes) total += lane;
  const float rescale = state->sum > 0 ? std::exp(state->max - max) : 0.0f;
  state->max = max;
  state->sum = state->sum * rescale + total;
  return rescale;
}

// out[r] = out[r] * rescale[r] + sum_t p[r][t] value[t], kVectors vectors of channels from `c` on.
template <int kRows, int kVectors, typename Values>
inline void Accumulate(Values values, int32_t tokens, const float* p, const float* rescale,
                       int32_t head_dim, int32_t c, float* out) {
  Vec16 acc[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int j = 0; j < kVectors; ++j) {
      acc[r][j] = Mul(Load(out + r * head_dim + c + j * kLanes), Set(rescale[r]));
    }
  }
  for (int32_t t = 0; t < tokens; ++t) {
    Vec16 value[kVectors];
    for (int j = 0; j < kVectors; ++j) value[j] = values(t, c + j * kLanes);
    for (int r = 0; r < kRows; ++r) {
      const Vec16 weight = Set(p[r * kTileTokens + t]);
      for (int j = 0; j < kVectors; ++j) acc[r][j] = MulAdd(value[j], weight, acc[r][j]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int j = 0; j < kVectors; ++j) Store(out + r * head_dim + c + j * kLanes, acc[r][j]);
  }
}

template <int kRows>
inline void AttendRows(const KvTile& tile, const float* q, const int32_t* visible, int32_t head_dim,
                       float scale, SoftmaxState* state, float* out) {
  float scores[kRows * kTileTokens];
  float rescale[kRows];
  if constexpr (kRows % 3 == 0) {
    for (int r = 0; r < kRows; r += 3) {
      Scores<3>(tile, q + r * head_dim, head_dim, scale, scores + r * kTileTokens);
    }
  } else {
    for (int r = 0; r < kRows; ++r) {
      Scores<1>(tile, q + r * head_dim, head_dim, scale, scores + r * kTileTokens);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    rescale[r] = Softmax(scores + r * kTileTokens, visible[r], &state[r]);
  }
  const auto accumulate = [&](auto values) {
    int32_t c = 0;
    for (; c + 4 * kLanes <= head_dim; c += 4 * kLanes) {
      Accumulate<kRows, 4>(values, tile.tokens, scores, rescale, head_dim, c, out);
    }
    for (; c < head_dim; c += kLanes) {
      Accumulate<kRows, 1>(values, tile.tokens, scores, rescale, head_dim, c, out);
    }
  };
  if (tile.rows != nullptr) {
    const auto* bits = reinterpret_cast<const uint16_t* const*>(tile.rows);
    accumulate([=](int32_t t, int32_t c) { return LoadBFloat16(bits[t] + head_dim + c); });
  } else {
    accumulate([&](int32_t t, int32_t c) { return Load(tile.values + t * head_dim + c); });
  }
}

void Attend(const KvTile& tile, const float* q, const int32_t* visible, int rows, int32_t head_dim,
            float scale, SoftmaxState* state, float* out) {
  int r = 0;
  const auto run = [&](auto count) {
    AttendRows<count()>(tile, q + r * head_dim, visible + r, head_dim, scale, state + r,
                        out + r * head_dim);
    r += count();
  };
  while (r + 6 <= rows) run(std::integral_constant<int, 6>());
  while (r + 3 <= rows) run(std::integral_constant<int, 3>());
  while (r < rows) run(std::integral_constant<int, 1>());
}

void Merge(const SoftmaxState& part, const float* part_out, int32_t head_dim, SoftmaxState* total,
           float* total_out) {
  if (part.sum == 0) return;
  const float max = std::max(total->max, part.max);
  const float old_scale = total->sum > 0 ? std::exp(total->max - max) : 0.0f;
  const float new_scale = std::exp(part.max - max);
  for (int32_t c = 0; c < head_dim; c += kLanes) {
    const Vec16 kept = Mul(Load(total_out + c), Set(old_scale));
    Store(total_out + c, MulAdd(Load(part_out + c), Set(new_scale), kept));
  }
  total->sum = total->sum * old_scale + part.sum * new_scale;
  total->max = max;
}

const CpuKernels& Kernels() {
  static constexpr CpuKernels kTable = {.unpack = Unpack,
                                        .gemv = Gemv,
                                        .gemm = Gemm,
                                        .rms_norm = RmsNormRow,
                                        .silu_mul = SiluMul,
                                        .load_rows = LoadRows,
                                        .widen_values = WidenValues,
                                        .load_page = LoadPage,
                                        .attend = Attend,
                                        .merge = Merge,
                                        .logit_sum = LogitSum,
                                        .logit_divide = LogitDivide,
                                        .logit_keys = LogitKeys};
  return kTable;
}

}  // namespace tailor::TS_SIMD_NAMESPACE
