// Selection of a sparse layer's dominant rows without the CPU: see select_math.h for the arithmetic
// and its tie rules. Scores are bound by reading `channels` of head_dim key channels; the rows are
// gathered from wherever they lie, mapped memory of the host included.
#include "worker/ops/cuda/device.cuh"
#include "worker/ops/cuda/select_math.h"

namespace tailor::cuda {
namespace {

constexpr int kMaxDim = 128;
constexpr int kTopKThreads = 1024;

// A block a KV head, a thread a channel: its rank is the number of channels that come before it.
__global__ void __launch_bounds__(kMaxDim)
    CriticalKernel(Rows<const float> q, const float* kmax, int32_t head_dim, int32_t count,
                   float* q_mean, int32_t* channels) {
  __shared__ float importance[kMaxDim];
  __shared__ bool chosen[kMaxDim];
  const auto c = static_cast<int32_t>(threadIdx.x), head = static_cast<int32_t>(blockIdx.x);
  const int32_t group = q.cols / head_dim / static_cast<int32_t>(gridDim.x);
  float mean = 0.0f;
  for (int32_t g = 0; g < group; ++g) {
    mean = AddRounded(mean, q.data[(int64_t{head} * group + g) * head_dim + c]);
  }
  mean /= static_cast<float>(group);
  q_mean[head * head_dim + c] = mean;
  importance[c] = MulRounded(fabsf(mean), kmax[head * head_dim + c]);
  __syncthreads();
  int32_t rank = 0;
  for (int32_t other = 0; other < head_dim; ++other) {
    rank += IsMoreCritical(importance[other], other, importance[c], c) ? 1 : 0;
  }
  chosen[c] = rank < count;
  __syncthreads();
  if (!chosen[c]) return;
  int32_t place = 0;
  for (int32_t other = 0; other < c; ++other) place += chosen[other] ? 1 : 0;
  channels[head * count + place] = c;
}

// Adds the terms of one channel to the scores of this lane's four tokens.
template <int kBits>
__device__ __forceinline__ void AddChannel(const std::byte* keys, const float* scales,
                                           const PageBits& shape, int32_t c, float q, int lane,
                                           float (&scores)[4]) {
  if constexpr (kBits == 0) {
    const uint32_t codes = reinterpret_cast<const uint32_t*>(keys + int64_t{c} * kPageRows)[lane];
    const float weight = MulRounded(q, scales[c]);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      scores[i] =
          AddTerm(scores[i], weight, static_cast<float>(static_cast<int8_t>(codes >> 8 * i)));
    }
  } else {
    const auto* planes =
        reinterpret_cast<const uint16_t*>(keys + shape.KeyWord(c, lane * 4 / kPlaneCodes));
    const uint32_t params =
        *reinterpret_cast<const uint32_t*>(keys + shape.KeyParam(c, lane * 4 / kGroup));
    const float min = __uint_as_float(params << 16), scale = __uint_as_float(params & 0xffff0000u);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t code = CodeAt<kBits>(planes, lane * 4 % kPlaneCodes + i);
      scores[i] = AddTerm(scores[i], q, SketchValue(min, scale, code));
    }
  }
}

// A warp a page, four tokens a lane.
template <int kBits>
__global__ void __launch_bounds__(128)
    ScoreKernel(SelectTable table, const float* q_mean, const int32_t* channels, int32_t count,
                float* scores) {
  const auto page = static_cast<int32_t>(blockIdx.x * 4 + threadIdx.x / 32),
             head = static_cast<int32_t>(blockIdx.y);
  if (page >= table.pages) return;
  const int lane = threadIdx.x % 32;
  const int64_t place = int64_t{head} * table.pages + page;
  const std::byte* keys = table.keys[place];
  const float* scales = kBits == 0 ? table.key_scales[place] : nullptr;
  const PageBits shape = {kBits, table.head_dim};
  float sums[4] = {};
  for (int32_t i = 0; i < count; ++i) {
    const int32_t c = channels[head * count + i];
    AddChannel<kBits>(keys, scales, shape, c, q_mean[head * table.head_dim + c], lane, sums);
  }
  auto* out = reinterpret_cast<float4*>(scores + place * kPageRows);
  out[lane] = {sums[0], sums[1], sums[2], sums[3]};
}

// The place of each `flag` among the block's, counted by thread; `total` of all of them.
__device__ __forceinline__ int32_t PlaceOf(bool flag, int32_t* warp_counts, int32_t* total) {
  const unsigned votes = __ballot_sync(kWholeWarp, flag);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  __syncthreads();
  if (lane == 0) warp_counts[warp] = __popc(votes);
  __syncthreads();
  int32_t before = 0;
  *total = 0;
  for (int w = 0; w < kTopKThreads / 32; ++w) {
    before += w < warp ? warp_counts[w] : 0;
    *total += warp_counts[w];
  }
  return before + __popc(votes & ((1u << lane) - 1u));
}

// A block a head: four passes find the k-th largest key, one writes the tokens in order.
__global__ void __launch_bounds__(kTopKThreads)
    TopKKernel(const float* all_scores, int32_t stride, int32_t first, int32_t last, int32_t k,
               int32_t* tokens) {
  __shared__ uint32_t bins[RadixSelect::kBins];
  __shared__ RadixSelect select;
  __shared__ int32_t warp_counts[kTopKThreads / 32];
  const float* scores = all_scores + static_cast<int64_t>(blockIdx.x) * stride;
  if (threadIdx.x == 0) select = RadixSelect{0, k, 0};
  for (int step = 0; step < RadixSelect::kSteps; ++step) {
    if (threadIdx.x < RadixSelect::kBins) bins[threadIdx.x] = 0;
    __syncthreads();
    const RadixSelect now = select;
    for (int32_t t = first + threadIdx.x; t < last; t += kTopKThreads) {
      const uint32_t key = ScoreKey(scores[t]);
      if (now.Matches(key)) atomicAdd(&bins[now.Digit(key)], 1u);
    }
    __syncthreads();
    if (threadIdx.x == 0) select.Take(bins);
    __syncthreads();
  }
  const uint32_t bound = select.prefix;
  int32_t ties_left = select.wanted, written = 0;
  int32_t* out = tokens + static_cast<int64_t>(blockIdx.x) * k;
  for (int32_t base = first; base < last; base += kTopKThreads) {
    const int32_t t = base + static_cast<int32_t>(threadIdx.x);
    const uint32_t key = t < last ? ScoreKey(scores[t]) : 0;
    int32_t ties = 0, taken = 0;
    const bool tie = t < last && key == bound;
    const int32_t tie_place = PlaceOf(tie, warp_counts, &ties);
    const bool take = t < last && (key > bound || (tie && tie_place < ties_left));
    const int32_t place = PlaceOf(take, warp_counts, &taken);
    if (take) out[written + place] = t;
    ties_left -= min(ties, ties_left);
    written += taken;
  }
}

// A warp a row.
__global__ void __launch_bounds__(128)
    GatherKernel(SelectTable table, const int32_t* tokens, int32_t k, uint16_t* rows) {
  const auto i = static_cast<int32_t>(blockIdx.x * 4 + threadIdx.x / 32),
             head = static_cast<int32_t>(blockIdx.y);
  if (i >= k) return;
  const int32_t token = tokens[int64_t{head} * k + i], loads = 2 * table.head_dim / 8;
  const uint16_t* page = table.row_pages[int64_t{head} * table.pages + token / kPageRows];
  const auto* from =
      reinterpret_cast<const uint4*>(page + int64_t{token % kPageRows} * 2 * table.head_dim);
  auto* to = reinterpret_cast<uint4*>(rows + (int64_t{head} * k + i) * 2 * table.head_dim);
  for (int32_t l = threadIdx.x % 32; l < loads; l += 32) to[l] = from[l];
}

}  // namespace

void LaunchCriticalChannels(Rows<const float> q, const float* kmax, int32_t kv_heads,
                            int32_t head_dim, int32_t count, float* q_mean, int32_t* channels,
                            CudaStreamRef stream) {
  CriticalKernel<<<kv_heads, head_dim, 0, stream.handle>>>(q, kmax, head_dim, count, q_mean,
                                                           channels);
}

void LaunchScores(const SelectTable& table, const float* q_mean, const int32_t* channels,
                  int32_t count, float* scores, CudaStreamRef stream) {
  const dim3 grid((table.pages + 3) / 4, table.kv_heads);
  const auto launch = [&](auto kernel) {
    kernel<<<grid, 128, 0, stream.handle>>>(table, q_mean, channels, count, scores);
  };
  switch (table.bits) {
    case 0:
      return launch(ScoreKernel<0>);
    case 2:
      return launch(ScoreKernel<2>);
    default:
      return launch(ScoreKernel<4>);
  }
}

void LaunchTopK(const float* scores, int32_t stride, int32_t first, int32_t last, int32_t kv_heads,
                int32_t k, int32_t* tokens, CudaStreamRef stream) {
  TopKKernel<<<kv_heads, kTopKThreads, 0, stream.handle>>>(scores, stride, first, last, k, tokens);
}

void LaunchGather(const SelectTable& table, const int32_t* tokens, int32_t k, uint16_t* rows,
                  CudaStreamRef stream) {
  const dim3 grid((k + 3) / 4, table.kv_heads);
  GatherKernel<<<grid, 128, 0, stream.handle>>>(table, tokens, k, rows);
}

}  // namespace tailor::cuda
