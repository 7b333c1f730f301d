// Attention of many queries on tensor cores, after FlashAttention-2 (Dao, 2023): a block takes 64
// queries of one head and walks the keys in tiles of 64, counted from the first token, with a
// running softmax. V of a tile is loaded while its scores are made, K of the next while V is
// summed. q and the probabilities are rounded to bf16; scores, sums and the softmax are fp32. A
// query's result does not depend on its neighbours: tiles beyond what it sees add nothing, exactly.
#include "worker/ops/cuda/device.cuh"
#include "worker/ops/cuda/tensor_core.cuh"

namespace tailor::cuda {
namespace {

constexpr int kQueries = 64, kKeys = 64, kThreads = 128;
constexpr float kLowest = -__builtin_huge_valf();
constexpr float kLog2E = 1.4426950408889634f;

// A warp's 16 queries: lane l holds rows l / 4 and l / 4 + 8.
template <int kDim>
struct Tile {
  uint32_t q[kDim / 16][4];
  float out[kDim / 8][4];
  float max[2], sum[2];  // of scores times log2(e); sum: of this lane's columns
};

template <int kDim>
__device__ __forceinline__ void LoadQueries(const QueryTable& query, int32_t head, int32_t first,
                                            Tile<kDim>& tile) {
  const int lane = threadIdx.x % 32;
  const int32_t rows[2] = {min(first + lane / 4, query.q.rows - 1),
                           min(first + lane / 4 + 8, query.q.rows - 1)};
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
#pragma unroll
    for (int part = 0; part < 4; ++part) {  // rows r, r + 8; then inputs + 8 of both
      const float* from = query.q.data + rows[part % 2] * query.q.stride + int64_t{head} * kDim +
                          k * 16 + part / 2 * 8 + lane % 4 * 2;
      tile.q[k][part] = PackBf16(from[0], from[1]);
    }
  }
}

// Starts the copy of K (offset 0) or V (offset kDim) of tokens [first, first + kKeys).
template <int kDim>
__device__ __forceinline__ void CopyTile(const KeyTable& keys, int32_t kv_head, int32_t first,
                                         int32_t offset, uint16_t* to) {
  constexpr int kLoads = kDim / 8, kPitch = kDim + 8;  // 16 bytes apart: no bank twice
  const int32_t start = keys.starts[kv_head], count = keys.starts[kv_head + 1] - start;
  for (int32_t i = threadIdx.x; i < kKeys * kLoads; i += kThreads) {
    const int32_t token = first + i / kLoads, part = i % kLoads;
    const bool inside = token < keys.tokens;
    const uint16_t* row =
        RowOf(keys.segments + start, count, inside ? token : keys.tokens - 1, kDim);
    CopyAsync(to + i / kLoads * kPitch + part * 8, row + offset + part * 8, inside ? 16 : 0);
  }
  CommitCopies();
}

// scores = q K^T of this warp's 16 queries and the tile's 64 keys.
template <int kDim>
__device__ __forceinline__ void Scores(const Tile<kDim>& tile, const uint16_t* keys,
                                       float (&scores)[kKeys / 8][4]) {
  constexpr int kPitch = kDim + 8;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[n][i] = 0.0f;
  }
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
#pragma unroll
    for (int n = 0; n < kKeys / 16; ++n) {
      uint32_t b[4];
      LoadMatrix4(b,
                  keys + (n * 16 + lane / 16 * 8 + lane % 8) * kPitch + k * 16 + lane / 8 % 2 * 8);
      Mma(scores[2 * n], tile.q[k], b);
      Mma(scores[2 * n + 1], tile.q[k], b + 2);
    }
  }
}

// Scores to probabilities of the running softmax; out and sum are brought to the new maximum.
// visible[i]: tokens that row i sees, counted from the tile's first.
template <int kDim>
__device__ __forceinline__ void Softmax(float scale, const int32_t (&visible)[2], Tile<kDim>& tile,
                                        float (&scores)[kKeys / 8][4]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    float max = tile.max[row];
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& score = scores[n][row * 2 + i];
        score = n * 8 + lane % 4 * 2 + i < visible[row] ? score * scale : kLowest;
        max = fmaxf(max, score);
      }
    }
    max = fmaxf(max, __shfl_xor_sync(kWholeWarp, max, 1));
    max = fmaxf(max, __shfl_xor_sync(kWholeWarp, max, 2));
    const float base = max == kLowest ? 0.0f : max;  // a row that sees nothing yet
    const float keep = exp2f(tile.max[row] - base);
    tile.max[row] = max;
    float sum = 0.0f;
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& score = scores[n][row * 2 + i];
        score = exp2f(score - base);
        sum += score;
      }
    }
    tile.sum[row] = tile.sum[row] * keep + sum;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      tile.out[n][row * 2] *= keep;
      tile.out[n][row * 2 + 1] *= keep;
    }
  }
}

// out += probabilities x V: the scores' fragments are the operand's, two columns of 8 at a time.
template <int kDim>
__device__ __forceinline__ void AddValues(const uint16_t* values,
                                          const float (&scores)[kKeys / 8][4], Tile<kDim>& tile) {
  constexpr int kPitch = kDim + 8;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < kKeys / 16; ++k) {
    const float *low = scores[2 * k], *high = scores[2 * k + 1];
    const uint32_t a[4] = {PackBf16(low[0], low[1]), PackBf16(low[2], low[3]),
                           PackBf16(high[0], high[1]), PackBf16(high[2], high[3])};
#pragma unroll
    for (int n = 0; n < kDim / 16; ++n) {
      uint32_t b[4];
      LoadMatrix4Transposed(
          b, values + (k * 16 + lane / 8 % 2 * 8 + lane % 8) * kPitch + n * 16 + lane / 16 * 8);
      Mma(tile.out[2 * n], a, b);
      Mma(tile.out[2 * n + 1], a, b + 2);
    }
  }
}

template <int kDim>
__device__ __forceinline__ void Emit(const QueryTable& query, int32_t head, int32_t first,
                                     const Rows<float>& out, const Rows<float>& lse,
                                     Tile<kDim>& tile) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    float sum = tile.sum[row];
    sum += __shfl_xor_sync(kWholeWarp, sum, 1);
    sum += __shfl_xor_sync(kWholeWarp, sum, 2);
    const int32_t i = first + lane / 4 + row * 8;
    if (i >= query.q.rows) continue;
    float* to = out.data + i * out.stride + int64_t{head} * kDim + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      to[n * 8] = tile.out[n][row * 2] / sum;
      to[n * 8 + 1] = tile.out[n][row * 2 + 1] / sum;
    }
    if (lse.data != nullptr && lane % 4 == 0) {
      lse.data[i * lse.stride + head] = tile.max[row] / kLog2E + logf(sum);
    }
  }
}

template <int kDim>
__global__ void __launch_bounds__(kThreads, 2)
    AttendPrefillKernel(QueryTable query, KeyTable keys, Rows<float> out, Rows<float> lse) {
  __shared__ __align__(16) uint16_t key_tile[kKeys * (kDim + 8)], value_tile[kKeys * (kDim + 8)];
  // The last queries see the most: their blocks come first.
  const int32_t block = static_cast<int32_t>(gridDim.x - 1 - blockIdx.x) * kQueries;
  const auto head = static_cast<int32_t>(blockIdx.y);
  const int32_t kv_head = head / (query.q_heads / keys.kv_heads);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int32_t first_query = block + warp * 16, past = keys.tokens - query.q.rows;
  const float scale = kLog2E / sqrtf(static_cast<float>(kDim));
  Tile<kDim> tile = {};
  tile.max[0] = tile.max[1] = kLowest;
  LoadQueries(query, head, first_query, tile);
  const int32_t last_query = min(block + kQueries, query.q.rows) - 1;
  const int32_t end = query.causal ? past + last_query + 1 : keys.tokens;
  CopyTile<kDim>(keys, kv_head, 0, 0, key_tile);
  for (int32_t first = 0; first < end; first += kKeys) {
    AwaitCopies<0>();
    __syncthreads();  // K is here, and V of the tile before is done with
    CopyTile<kDim>(keys, kv_head, first, kDim, value_tile);
    float scores[kKeys / 8][4];
    Scores(tile, key_tile, scores);
    int32_t visible[2];
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const int32_t i = first_query + lane / 4 + row * 8;
      visible[row] = (query.causal ? min(past + i + 1, keys.tokens) : keys.tokens) - first;
    }
    Softmax(scale, visible, tile, scores);
    AwaitCopies<0>();
    __syncthreads();  // V is here, and K is done with
    if (first + kKeys < end) CopyTile<kDim>(keys, kv_head, first + kKeys, 0, key_tile);
    AddValues(value_tile, scores, tile);
  }
  Emit(query, head, first_query, out, lse, tile);
}

}  // namespace

void LaunchAttendPrefill(const QueryTable& q, const KeyTable& keys, Rows<float> out,
                         Rows<float> lse, CudaStreamRef stream) {
  const dim3 grid((q.q.rows + kQueries - 1) / kQueries, q.q_heads);
  if (keys.head_dim == 64) {
    LaunchKernel(AttendPrefillKernel<64>, grid, kThreads, 0, stream, q, keys, out, lse);
  } else {
    LaunchKernel(AttendPrefillKernel<128>, grid, kThreads, 0, stream, q, keys, out, lse);
  }
}

}  // namespace tailor::cuda
