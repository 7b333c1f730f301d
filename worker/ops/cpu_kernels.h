// The inner loops of the CPU backend, one table per SIMD level (compiled once per level from
// cpu_kernels_impl.h, chosen once at start). No allocation, no threads, no dispatch inside.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "common/bfloat16.h"
#include "common/cpu/simd_level.h"
#include "common/model_file/model_file.h"
#include "worker/ops/quantized_page.h"

namespace tailor {

inline constexpr int kLanes = 16;        // outputs of one weight group, floats of one vector
inline constexpr int kTileTokens = 128;  // keys scored at a time

enum class Epilogue { kStore, kAdd };

// 16 consecutive outputs of a weight, interleaved; see packed_weight.h.
struct WeightGroup {
  DType dtype;
  int64_t cols;
  const std::byte* bytes;
};

// Floats between two channels of a tile's keys: a little over kTileTokens, so that the channels of
// one token do not all fall into the same few cache sets.
inline constexpr int kKeyStride = kTileTokens + 16;

// A tile of keys and values of one KV head.
struct KvTile {
  float* keys;     // [head_dim][kKeyStride], transposed; columns from `tokens` on are zero
  float* values;   // [kTileTokens][head_dim]
  int32_t tokens;  // valid
  // Not null: values are still bf16, in the rows [2][head_dim] that these point to, [tokens].
  const BFloat16* const* rows;
};

// Online softmax of one query row over some tiles.
//   running maximum m of the scaled scores, l = sum e^(s - m), o = sum e^(s - m) v
struct SoftmaxState {
  float max, sum;
};

struct CpuKernels {
  // panel[k][group * 16 + lane] = weight of output (group, lane), input k: fp32, [cols][16 * groups].
  void (*unpack)(const WeightGroup* groups, int count, float* panel);
  // out[r][16 * group + lane] = sum_k w x[r][k] for up to 4 groups of one dtype: rows of x at
  // x_stride, of out at 16 * count. A row's bits are those of gemm.
  void (*gemv)(const WeightGroup* groups, int count, const float* x, int64_t x_stride, int64_t rows,
               float* out);
  // out[r][0..32) = sum_k x[r][k] panel[k][0..32): rows of x at x_stride, of out at 32.
  void (*gemm)(const float* panel, int64_t cols, const float* x, int64_t x_stride, int64_t rows,
               float* out);
  // out = x * (1 / sqrt(mean(x^2) + eps)) * gain, n a multiple of nothing.
  void (*rms_norm)(const float* x, const float* gain, float eps, int64_t n, float* out);
  // gate[i] = silu(gate[i]) * up[i]
  void (*silu_mul)(float* gate, const float* up, int64_t n);
  // Rows [2][head_dim] at rows[0..tokens) -> keys of the tile; its values stay where they are.
  // head_dim: a multiple of 16, here and below.
  void (*load_rows)(const BFloat16* const* rows, int32_t tokens, int32_t head_dim, KvTile* tile);
  // Brings the values to fp32 as well: pays when many query rows read the tile, changes no result.
  void (*widen_values)(int32_t head_dim, KvTile* tile);
  // One quantized page of a KV head -> tile of kTileTokens.
  void (*load_page)(const std::byte* page, const QuantizedPageShape& shape, KvTile* tile);
  // For each of `rows` query rows: scores against the tile's first visible[r] keys, online softmax
  // into state[r] and out[r]. q, out: [rows][head_dim]; scores scaled by `scale`.
  void (*attend)(const KvTile& tile, const float* q, const int32_t* visible, int rows,
                 int32_t head_dim, float scale, SoftmaxState* state, float* out);
  // total := total (+) part, the two halves of one softmax.
  void (*merge)(const SoftmaxState& part, const float* part_out, int32_t head_dim,
                SoftmaxState* total, float* total_out);
  // The largest of kLogitPiece floats, and the sum of e^(x - max).
  void (*logit_sum)(const float* x, float* max, double* sum);
  // kLogitPiece values, each divided by the temperature.
  void (*logit_divide)(float temperature, float* values);
  // CandidateKeys of those of `count` <= kLogitKeys values that rank above the bound, tokens from
  // `first` on, in order; returns how many.
  int32_t (*logit_keys)(const float* values, int32_t count, int32_t first, uint32_t bound,
                        uint64_t* keys);
};

inline constexpr int kLogitKeys = 64;  // looked at in one call

inline constexpr int kGemvGroups = 4;   // most groups of one gemv call
inline constexpr int kGemvRows = 16;    // most rows that gemv is faster for
inline constexpr int kGemmGroups = 2;   // groups of a gemm panel
inline constexpr int kAttendRows = 6;   // query rows that pay best in one attend call

const CpuKernels& KernelsFor(SimdLevel level);
namespace scalar { const CpuKernels& Kernels(); }
namespace avx2 { const CpuKernels& Kernels(); }
namespace avx512 { const CpuKernels& Kernels(); }

}  // namespace tailor
