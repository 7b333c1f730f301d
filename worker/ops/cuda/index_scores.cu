// Scores of a sparse layer's tokens from the 4-bit index, and of a few from their exact keys:
// kvstore/select/scores.cc on a device. Every float has its fixed place in a sum: 16 lanes, pages
// in order, halves of lanes; so the bits are the CPU's. Bound by reading `channels` of head_dim
// channels.
#include "worker/ops/cuda/device.cuh"
#include "worker/ops/cuda/row_cache.h"
#include "worker/ops/cuda/select_math.h"

namespace tailor::cuda {
namespace {

constexpr int kMaxDim = 128;
constexpr int kWarps = 4;
constexpr int kBlockQueries = 4;  // that share one pass over a page's codes

// Sum and maximum over 16 lanes; the tree of kernels_impl.h's Reduce.
__device__ __forceinline__ float LaneSum(float value) {
#pragma unroll
  for (int mask = kIndexLanes / 2; mask > 0; mask /= 2) {
    value = AddRounded(value, __shfl_xor_sync(kWholeWarp, value, mask));
  }
  return value;
}
template <int kOver>
__device__ __forceinline__ float LaneMax(float value) {
#pragma unroll
  for (int mask = kOver / 2; mask > 0; mask /= 2) {
    const float other = __shfl_xor_sync(kWholeWarp, value, mask);
    value = other > value ? other : value;
  }
  return value;
}

// --- queries and critical channels: a block a KV head, a thread a channel ---

// channels: the `count` most important, ascending; returns once all threads see them.
__device__ __forceinline__ void ChooseChannels(const float* importance, int32_t head_dim,
                                               int32_t count, bool* chosen, int32_t* channels) {
  const auto c = static_cast<int32_t>(threadIdx.x);
  int32_t rank = 0, place = 0;
  for (int32_t other = 0; other < head_dim; ++other) {
    rank += IsMoreCritical(importance[other], other, importance[c], c) ? 1 : 0;
  }
  chosen[c] = rank < count;
  __syncthreads();
  for (int32_t other = 0; other < c; ++other) place += chosen[other] ? 1 : 0;
  if (chosen[c]) channels[place] = c;
  __syncthreads();
}

__global__ void __launch_bounds__(kMaxDim)
    PrepareKernel(SelectTable table, Rows<const float> q, const float* kmax, float factor,
                  SelectWork work) {
  __shared__ float importance[kMaxDim];
  __shared__ bool chosen[kMaxDim];
  __shared__ int32_t channels[kMaxDim];
  const auto c = static_cast<int32_t>(threadIdx.x), head = static_cast<int32_t>(blockIdx.x);
  const int32_t d = table.head_dim, group = q.cols / d / table.kv_heads, count = table.channels;
  const bool mean = table.rule == ScoreRule::kMeanQuery;
  float* queries = work.queries + int64_t{head} * table.queries * d;
  float sum = 0.0f;
  for (int32_t g = 0; g < group; ++g) {
    const float value = q.data[(int64_t{head} * group + g) * d + c];
    sum = AddRounded(sum, mean ? value : Magnitude(value));
    if (!mean) queries[g * d + c] = MulRounded(value, factor);
  }
  if (mean) queries[c] = sum = DivRounded(sum, static_cast<float>(group));
  importance[c] = Importance(sum, kmax[head * d + c]);
  for (int32_t g = c; g < table.queries; g += d) {
    work.largest[head * table.queries + g] = ScoreKey(-__builtin_huge_valf());
  }
  __syncthreads();
  ChooseChannels(importance, d, count, chosen, channels);
  if (c < count) work.channels[head * count + c] = channels[c];
  float* critical = work.critical + int64_t{head} * table.queries * table.padded;
  for (int32_t i = c; i < table.queries * table.padded; i += d) {
    const int32_t place = i % table.padded;
    critical[i] = place < count ? queries[i / table.padded * d + channels[place]] : 0.0f;
  }
}

// --- scores from codes: a warp a page, four tokens a lane ---

struct WarpPage {
  float scale[kMaxDim], min[kMaxDim];  // of the critical channels, zero beyond
  alignas(4) int8_t weights[kMaxDim][kBlockQueries];
  float unit[kBlockQueries], bias[kBlockQueries];
};

__device__ __forceinline__ void LoadParams(const SelectTable& table, const IndexPage& page,
                                           int32_t head, const int32_t* channels, WarpPage& to) {
  const int64_t at = (int64_t{table.index_slice} + head) * table.strides.params;
  for (int32_t i = threadIdx.x % 32; i < table.padded; i += 32) {
    to.scale[i] = i < table.channels ? page.scale[at + channels[i]] : 0.0f;
    to.min[i] = i < table.channels ? page.min[at + channels[i]] : 0.0f;
  }
}

// Weights of up to kBlockQueries queries, two at a time: 16 lanes each.
__device__ __forceinline__ void Weigh(const SelectTable& table, const float* critical,
                                      int32_t queries, WarpPage& page) {
  const int32_t lane = threadIdx.x % kIndexLanes, half = threadIdx.x / kIndexLanes % 2;
  const auto top = static_cast<float>(IndexWeightLimit(table.channels));
  for (int32_t slot = half; slot < kBlockQueries; slot += 2) {
    const float* q = critical + int64_t{min(slot, queries - 1)} * table.padded;
    float largest = 0.0f, bias = 0.0f;
    for (int32_t c = lane; c < table.padded; c += kIndexLanes) {
      const float size = WeightSize(q[c], page.scale[c]);
      largest = size > largest ? size : largest;
      bias = AddRounded(bias, MulRounded(q[c], page.min[c]));
    }
    largest = LaneMax<kIndexLanes>(largest);
    bias = LaneSum(bias);
    const float inverse = largest > 0.0f ? DivRounded(top, largest) : 0.0f;
    for (int32_t c = lane; c < table.padded; c += kIndexLanes) {
      page.weights[c][slot] = RoundedWeight(q[c], page.scale[c], inverse, top);
    }
    if (lane == 0) {
      page.unit[slot] = DivRounded(largest, top);
      page.bias[slot] = bias;
    }
  }
}

__device__ __forceinline__ void SumCodes(const SelectTable& table, const uint8_t* codes,
                                         const int32_t* channels, const WarpPage& page,
                                         CodeSums (&sums)[kBlockQueries]) {
  const int32_t word = threadIdx.x % 16, half = threadIdx.x / 16 % 2;
  // An odd last channel is paired with itself, as on the CPU: its second weight is that of zeros.
#pragma unroll 4
  for (int32_t i = 0; i < table.channels + table.channels % 2; ++i) {
    const int32_t c = channels[min(i, table.channels - 1)];
    const uint32_t both =
        reinterpret_cast<const uint32_t*>(codes + int64_t{c} * kIndexCodeBytes)[word];
    const uint32_t weights = *reinterpret_cast<const uint32_t*>(page.weights[i]);
#pragma unroll
    for (int slot = 0; slot < kBlockQueries; ++slot) {
      sums[slot].Add(both >> 4 * half, static_cast<int8_t>(weights >> 8 * slot));
    }
  }
}

__global__ void __launch_bounds__(32 * kWarps) ScoreKernel(SelectTable table, SelectWork work) {
  __shared__ WarpPage pages[kWarps];
  const auto p = static_cast<int32_t>(blockIdx.x * kWarps + threadIdx.x / 32),
             head = static_cast<int32_t>(blockIdx.y);
  if (p >= table.page_count) return;
  WarpPage& mine = pages[threadIdx.x / 32];
  const IndexPage page = table.pages[p];
  const int32_t* channels = work.channels + head * table.channels;
  const uint8_t* codes = page.codes + (int64_t{table.index_slice} + head) * table.strides.codes;
  const int32_t token = FirstTokenOfWord(threadIdx.x % 16, threadIdx.x / 16 % 2);
  LoadParams(table, page, head, channels, mine);
  for (int32_t first = 0; first < table.queries; first += kBlockQueries) {
    const int32_t queries = min(kBlockQueries, table.queries - first);
    const int64_t query = int64_t{head} * table.queries + first;
    __syncwarp();
    Weigh(table, work.critical + query * table.padded, queries, mine);
    __syncwarp();
    CodeSums sums[kBlockQueries];
    SumCodes(table, codes, channels, mine, sums);
#pragma unroll
    for (int slot = 0; slot < kBlockQueries; ++slot) {
      if (slot >= queries) break;
      float scores[4], largest = -__builtin_huge_valf();
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        scores[i] = IndexScore(sums[slot].Of(i), mine.unit[slot], mine.bias[slot]);
        largest = scores[i] > largest ? scores[i] : largest;
      }
      float* out = work.raw + ((query + slot) * table.page_count + p) * kPageRows + token;
      *reinterpret_cast<float4*>(out) = {scores[0], scores[1], scores[2], scores[3]};
      largest = LaneMax<32>(largest);
      if (threadIdx.x % 32 == 0) atomicMax(work.largest + query + slot, ScoreKey(largest));
    }
  }
}

// --- the heads' vote ---

// A warp a page, 16 lanes a query: exponents in place, and their sums by lane.
__global__ void __launch_bounds__(32 * kWarps) ExponentKernel(SelectTable table, SelectWork work) {
  const auto p = static_cast<int32_t>(blockIdx.x * kWarps + threadIdx.x / 32),
             head = static_cast<int32_t>(blockIdx.y);
  if (p >= table.page_count) return;
  const int32_t lane = threadIdx.x % kIndexLanes;
  for (int32_t g = threadIdx.x / kIndexLanes % 2; g < table.queries; g += 2) {
    const int64_t query = int64_t{head} * table.queries + g;
    const float largest = KeyScore(work.largest[query]);
    float* scores = work.raw + (query * table.page_count + p) * kPageRows;
    float sum = 0.0f;
#pragma unroll
    for (int32_t t = lane; t < kPageRows; t += kIndexLanes) {
      const float exponent = LinearExp2(AddRounded(scores[t], -largest));
      scores[t] = exponent;
      sum = AddRounded(sum, exponent);
    }
    work.page_sums[(query * table.page_count + p) * kIndexLanes + lane] = sum;
  }
}

// A block a query: 16 threads add the pages in order, the others bring them.
__global__ void __launch_bounds__(128) FactorKernel(SelectTable table, SelectWork work) {
  constexpr int kPages = 64;
  __shared__ float sums[kPages * kIndexLanes];
  const int64_t query = int64_t{blockIdx.y} * table.queries + blockIdx.x;
  const float* from = work.page_sums + query * table.page_count * kIndexLanes;
  float sum = 0.0f;
  for (int32_t first = 0; first < table.page_count; first += kPages) {
    const int32_t count = min(kPages, table.page_count - first);
    __syncthreads();
    for (int32_t i = threadIdx.x; i < count * kIndexLanes; i += 128) {
      sums[i] = from[first * kIndexLanes + i];
    }
    __syncthreads();
    if (threadIdx.x >= kIndexLanes) continue;
#pragma unroll 8
    for (int32_t p = 0; p < count; ++p) sum = AddRounded(sum, sums[p * kIndexLanes + threadIdx.x]);
  }
  if (threadIdx.x >= 32) return;
  sum = LaneSum(sum);
  if (threadIdx.x == 0) work.factors[query] = DivRounded(1.0f, sum);
}

// Four tokens a thread: the shares of all query heads, in order.
__global__ void __launch_bounds__(128) VoteKernel(SelectTable table, SelectWork work) {
  const int32_t quads = table.page_count * (kPageRows / 4);
  const auto i = static_cast<int32_t>(blockIdx.x * 128 + threadIdx.x),
             head = static_cast<int32_t>(blockIdx.y);
  if (i >= quads) return;
  float4 total = {0.0f, 0.0f, 0.0f, 0.0f};
  for (int32_t g = 0; g < table.queries; ++g) {
    const int64_t query = int64_t{head} * table.queries + g;
    const float factor = work.factors[query];
    const float4 share = reinterpret_cast<const float4*>(work.raw)[query * quads + i];
    total.x = AddRounded(total.x, MulRounded(factor, share.x));
    total.y = AddRounded(total.y, MulRounded(factor, share.y));
    total.z = AddRounded(total.z, MulRounded(factor, share.z));
    total.w = AddRounded(total.w, MulRounded(factor, share.w));
  }
  reinterpret_cast<float4*>(work.scores)[int64_t{head} * quads + i] = total;
}

// --- the second look: a warp a token, 16 lanes a query ---

// The row of a token, out of the cache where it has it.
__device__ __forceinline__ const uint16_t* RowAt(const SelectTable& table, int32_t head,
                                                 int32_t token) {
  const RowCache& cache = table.cache;
  if (cache.slots > 0) {
    const int64_t first = int64_t{head} * cache.slots;
    const int32_t slot = FindRow(cache.tags + first, cache.slots, token);
    if (slot >= 0) return cache.rows + (first + slot) * 2 * table.head_dim;
  }
  return table.pages[token / kPageRows].rows +
         (int64_t{table.row_slice} + head) * table.strides.rows +
         int64_t{token % kPageRows} * 2 * table.head_dim;
}

__global__ void __launch_bounds__(32 * kWarps)
    RescoreKernel(SelectTable table, SelectWork work, const int32_t* chosen, int32_t count,
                  float* scores) {
  const auto i = static_cast<int32_t>(blockIdx.x * kWarps + threadIdx.x / 32),
             head = static_cast<int32_t>(blockIdx.y);
  if (i >= count) return;
  const int32_t lane = threadIdx.x % kIndexLanes, half = threadIdx.x / kIndexLanes % 2;
  const int32_t token = chosen[int64_t{head} * count + i], d = table.head_dim;
  const uint16_t* key = RowAt(table, head, token);
  float score = 0.0f;
  for (int32_t first = 0; first < table.queries; first += 2) {
    const int64_t query = int64_t{head} * table.queries + min(first + half, table.queries - 1);
    float dot = 0.0f;
    for (int32_t c = lane; c < d; c += kIndexLanes) {
      dot = AddRounded(dot, MulRounded(work.queries[query * d + c], FromBf16Bits(key[c])));
    }
    dot = LaneSum(dot);
    if (table.rule == ScoreRule::kHeadsVote) {
      const float largest = KeyScore(work.largest[query]);
      dot = MulRounded(LinearExp2(AddRounded(dot, -largest)), work.factors[query]);
    }
    const float other = __shfl_xor_sync(kWholeWarp, dot, kIndexLanes);
    score = AddRounded(score, half == 0 ? dot : other);
    if (first + 1 < table.queries) score = AddRounded(score, half == 0 ? other : dot);
  }
  if (threadIdx.x % 32 == 0) scores[int64_t{head} * count + i] = score;
}

}  // namespace

void LaunchIndexScores(const SelectTable& table, Rows<const float> q, const float* kmax,
                       const SelectWork& work, CudaStreamRef stream) {
  const float factor = kLog2E / sqrtf(static_cast<float>(table.head_dim));
  const dim3 by_page((table.page_count + kWarps - 1) / kWarps, table.kv_heads);
  LaunchKernel(PrepareKernel, table.kv_heads, table.head_dim, 0, stream, table, q, kmax, factor,
               work);
  LaunchKernel(ScoreKernel, by_page, 32 * kWarps, 0, stream, table, work);
  if (table.rule == ScoreRule::kMeanQuery) return;
  LaunchKernel(ExponentKernel, by_page, 32 * kWarps, 0, stream, table, work);
  const dim3 by_query(table.queries, table.kv_heads);
  LaunchKernel(FactorKernel, by_query, 128, 0, stream, table, work);
  const dim3 by_tokens((table.page_count * (kPageRows / 4) + 127) / 128, table.kv_heads);
  LaunchKernel(VoteKernel, by_tokens, 128, 0, stream, table, work);
}

void LaunchRescore(const SelectTable& table, const SelectWork& work, const int32_t* chosen,
                   int32_t count, float* scores, CudaStreamRef stream) {
  const dim3 grid((count + kWarps - 1) / kWarps, table.kv_heads);
  LaunchKernel(RescoreKernel, grid, 32 * kWarps, 0, stream, table, work, chosen, count, scores);
}

}  // namespace tailor::cuda
