// Quantized layers: packing pages, and decode attention straight from their bit planes. A block
// takes some pages of one KV head: each page's K half, then its V half passes through shared memory
// as it is; values exist in registers only. Thread t scores token t; then thread c sums channel c.
#include "worker/ops/cuda/device.cuh"

namespace tailor::cuda {
namespace {

constexpr int kThreads = kPageRows;
constexpr int kWarps = kThreads / 32;
constexpr float kLowest = -__builtin_huge_valf();

// --- packing ---

// A block half a page (64 tokens): the groups of K are its channels, those of V its tokens.
__global__ void __launch_bounds__(kThreads)
    QuantizeKernel(const uint16_t* rows, PageBits shape, std::byte* page) {
  extern __shared__ uint4 shared[];
  const int32_t d = shape.head_dim, pitch = 2 * d + 8, half = blockIdx.x;
  auto* tile = reinterpret_cast<uint16_t*>(shared);  // [64][pitch]
  const auto* source = reinterpret_cast<const uint4*>(rows + int64_t{half} * kGroup * 2 * d);
  const int32_t row_loads = 2 * d / 8;
  for (int32_t i = threadIdx.x; i < kGroup * row_loads; i += kThreads) {
    *reinterpret_cast<uint4*>(tile + i / row_loads * pitch + i % row_loads * 8) = source[i];
  }
  __syncthreads();
  for (int32_t c = threadIdx.x; c < d; c += kThreads) {
    QuantizeGroup(tile + c, pitch, shape.bits,
                  reinterpret_cast<uint16_t*>(page + shape.KeyWord(c, half * 4)),
                  reinterpret_cast<uint16_t*>(page + shape.KeyParam(c, half)));
  }
  const int32_t value_groups = d / kGroup;
  for (int32_t i = threadIdx.x; i < kGroup * value_groups; i += kThreads) {
    const int32_t token = i / value_groups, group = i % value_groups, whole = half * kGroup + token;
    QuantizeGroup(tile + token * pitch + d + group * kGroup, 1, shape.bits,
                  reinterpret_cast<uint16_t*>(page + shape.ValueWord(whole, group * 4)),
                  reinterpret_cast<uint16_t*>(page + shape.ValueParam(whole, group)));
  }
}

// --- attention ---

// The 2 * kBits bytes of 16 codes, as one load.
template <int kBits>
struct Word;
template <>
struct Word<1> {
  uint16_t planes[1];
};
template <>
struct __align__(4) Word<2> {
  uint16_t planes[2];
};
template <>
struct __align__(8) Word<4> {
  uint16_t planes[4];
};
template <>
struct __align__(16) Word<8> {
  uint16_t planes[8];
};

template <int kBits>
__device__ __forceinline__ float ValueAt(const std::byte* half, int32_t word, int32_t i,
                                         uint32_t params) {
  const Word<kBits> codes = reinterpret_cast<const Word<kBits>*>(half)[word];
  const float code = static_cast<float>(CodeAt<kBits>(codes.planes, i));
  return fmaf(code, __uint_as_float(params & 0xffff0000u), __uint_as_float(params << 16));
}

template <int kDim, int kQueries>
struct Shared {
  float q[kDim][kQueries];
  float weight[kPageRows][kQueries];
  float warp_value[kQueries][kWarps];
};

__device__ __forceinline__ void LoadHalf(const std::byte* from, int64_t bytes, uint4* to) {
  for (int64_t i = threadIdx.x; i < bytes / 16; i += kThreads) {
    to[i] = LoadOnce(from + i * 16);
  }
}

// Scores of this thread's token over the K half.
template <int kBits, int kDim, int kQueries>
__device__ __forceinline__ void Score(const std::byte* keys, const PageBits& shape,
                                      const Shared<kDim, kQueries>& shared,
                                      float (&scores)[kQueries]) {
  const int32_t t = threadIdx.x, group = t / kGroup;
  const auto* params = reinterpret_cast<const uint32_t*>(keys + shape.CodeBytes());
#pragma unroll
  for (int g = 0; g < kQueries; ++g) scores[g] = 0.0f;
#pragma unroll 4
  for (int32_t c = 0; c < kDim; ++c) {
    const float key = ValueAt<kBits>(keys, c * (kPageRows / kPlaneCodes) + t / kPlaneCodes,
                                     t % kPlaneCodes, params[c * 2 + group]);
#pragma unroll
    for (int g = 0; g < kQueries; ++g) scores[g] = fmaf(shared.q[c][g], key, scores[g]);
  }
}

// The block's sum or maximum of one value a thread, for each query.
template <bool kMax, int kDim, int kQueries>
__device__ __forceinline__ void Reduce(Shared<kDim, kQueries>& shared, float (&values)[kQueries]) {
#pragma unroll
  for (int g = 0; g < kQueries; ++g) {
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) {
      const float other = __shfl_xor_sync(kWholeWarp, values[g], mask);
      values[g] = kMax ? fmaxf(values[g], other) : values[g] + other;
    }
    if (threadIdx.x % 32 == 0) shared.warp_value[g][threadIdx.x / 32] = values[g];
  }
  __syncthreads();
#pragma unroll
  for (int g = 0; g < kQueries; ++g) {
    values[g] = shared.warp_value[g][0];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) {
      values[g] =
          kMax ? fmaxf(values[g], shared.warp_value[g][w]) : values[g] + shared.warp_value[g][w];
    }
  }
  __syncthreads();
}

// out += weights x V half: thread c sums channel c; at head_dim 64 two threads share a channel,
// each with half of the tokens.
template <int kBits, int kDim, int kQueries>
__device__ __forceinline__ void AddValues(const std::byte* values, const PageBits& shape,
                                          const Shared<kDim, kQueries>& shared,
                                          float (&out)[kQueries]) {
  constexpr int kShares = kThreads / kDim, kTokens = kPageRows / kShares;
  const int32_t c = threadIdx.x % kDim, first = static_cast<int32_t>(threadIdx.x) / kDim * kTokens;
  const auto* params = reinterpret_cast<const uint32_t*>(values + shape.CodeBytes());
#pragma unroll 4
  for (int32_t t = first; t < first + kTokens; ++t) {
    const float value = ValueAt<kBits>(values, t * (kDim / kPlaneCodes) + c / kPlaneCodes,
                                       c % kPlaneCodes, params[t * (kDim / kGroup) + c / kGroup]);
#pragma unroll
    for (int g = 0; g < kQueries; ++g) out[g] = fmaf(shared.weight[t][g], value, out[g]);
  }
}

struct PagesCall {
  QueryTable query;
  const std::byte* const* pages;
  int32_t count, kv_heads;
  PageBits shape;
  SplitPlan plan;
  Partials partials;
};

template <int kBits, int kDim, int kQueries>
__global__ void __launch_bounds__(kThreads, 4)
    AttendPagesKernel(const __grid_constant__ PagesCall call) {
  extern __shared__ uint4 half[];
  __shared__ Shared<kDim, kQueries> shared;
  const auto* bytes = reinterpret_cast<const std::byte*>(half);
  const int32_t group = call.query.q_heads / call.kv_heads;
  const int32_t parts = (group + kQueries - 1) / kQueries;
  const int32_t kv_head = static_cast<int32_t>(blockIdx.y) / parts,
                part = static_cast<int32_t>(blockIdx.y) % parts;
  const int32_t head = kv_head * group + part * kQueries,
                heads = min(kQueries, group - part * kQueries);
  const float scale = 1.0f / sqrtf(static_cast<float>(kDim));
  for (int32_t i = threadIdx.x; i < kDim * kQueries; i += kThreads) {
    const int32_t c = i / kQueries, g = min(i % kQueries, heads - 1);
    shared.q[c][i % kQueries] = call.query.q.data[int64_t{head + g} * kDim + c] * scale;
  }
  float max[kQueries], sum[kQueries], out[kQueries];
#pragma unroll
  for (int g = 0; g < kQueries; ++g) {
    max[g] = kLowest;
    sum[g] = out[g] = 0.0f;
  }
  const auto split = static_cast<int32_t>(blockIdx.x);
  for (int32_t p = call.plan.First(split); p < call.plan.Last(split, call.count); ++p) {
    const std::byte* page = call.pages[int64_t{kv_head} * call.count + p];
    __syncthreads();  // the page before is done with
    LoadHalf(page, call.shape.HalfBytes(), half);
    __syncthreads();
    float scores[kQueries], largest[kQueries];
    Score<kBits, kDim, kQueries>(bytes, call.shape, shared, scores);
#pragma unroll
    for (int g = 0; g < kQueries; ++g) largest[g] = scores[g];
    Reduce<true>(shared, largest);  // also: all threads are done with the K half
    LoadHalf(page + call.shape.HalfBytes(), call.shape.HalfBytes(), half);
#pragma unroll
    for (int g = 0; g < kQueries; ++g) {
      const float next = fmaxf(max[g], largest[g]);
      const float keep = max[g] == next ? 1.0f : expf(max[g] - next);
      max[g] = next;
      scores[g] = expf(scores[g] - next);
      shared.weight[threadIdx.x][g] = scores[g];
      sum[g] = sum[g] * keep + scores[g];  // of this thread's tokens
      out[g] *= keep;
    }
    __syncthreads();
    AddValues<kBits, kDim, kQueries>(bytes, call.shape, shared, out);
  }
  Reduce<false>(shared, sum);
  __syncthreads();
  // At head_dim 64 the upper half of the block hands its sums to the lower.
  constexpr int kShares = kThreads / kDim;
  if (kShares == 2 && threadIdx.x >= kDim) {
#pragma unroll
    for (int g = 0; g < kQueries; ++g) shared.weight[threadIdx.x][g] = out[g];
  }
  __syncthreads();
  if (threadIdx.x >= kDim) return;
#pragma unroll
  for (int g = 0; g < kQueries; ++g) {
    if (g >= heads) break;
    const int64_t slot = int64_t{head + g} * call.partials.splits + split;
    const float other = kShares == 2 ? shared.weight[(threadIdx.x + kDim) % kThreads][g] : 0.0f;
    call.partials.out[slot * kDim + threadIdx.x] = out[g] + other;
    if (threadIdx.x == 0) call.partials.state[slot] = {max[g], sum[g]};
  }
}

template <int kBits, int kDim, int kQueries>
void Launch(const PagesCall& call, CudaStreamRef stream) {
  const int32_t group = call.query.q_heads / call.kv_heads;
  const dim3 grid(call.plan.splits, call.kv_heads * ((group + kQueries - 1) / kQueries));
  LaunchKernel(AttendPagesKernel<kBits, kDim, kQueries>, grid, kThreads,
               static_cast<size_t>(call.shape.HalfBytes()), stream, call);
}

template <int kBits, int kDim>
void LaunchGroup(const PagesCall& call, CudaStreamRef stream) {
  const int32_t group = call.query.q_heads / call.kv_heads;
  if (group == 1) return Launch<kBits, kDim, 1>(call, stream);
  if (group <= 4) return Launch<kBits, kDim, 4>(call, stream);
  Launch<kBits, kDim, 8>(call, stream);
}

template <int kDim>
void LaunchBits(const PagesCall& call, CudaStreamRef stream) {
  switch (call.shape.bits) {
    case 1:
      return LaunchGroup<1, kDim>(call, stream);
    case 2:
      return LaunchGroup<2, kDim>(call, stream);
    case 4:
      return LaunchGroup<4, kDim>(call, stream);
    default:
      return LaunchGroup<8, kDim>(call, stream);
  }
}

}  // namespace

void LaunchQuantizePage(const uint16_t* rows, const PageBits& shape, std::byte* page,
                        CudaStreamRef stream) {
  const size_t bytes = size_t{kGroup} * (2 * shape.head_dim + 8) * sizeof(uint16_t);
  LaunchKernel(QuantizeKernel, 2, kThreads, bytes, stream, rows, shape, page);
}

void LaunchAttendPages(const QueryTable& q, const std::byte* const* pages, int32_t count,
                       int32_t kv_heads, const PageBits& shape, const SplitPlan& plan,
                       const Partials& partials, CudaStreamRef stream) {
  const PagesCall call = {q, pages, count, kv_heads, shape, plan, partials};
  shape.head_dim == 64 ? LaunchBits<64>(call, stream) : LaunchBits<128>(call, stream);
}

}  // namespace tailor::cuda
