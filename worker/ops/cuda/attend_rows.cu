// Decode attention over rows of full precision, bound by reading them: the tokens are cut into
// splits, a block each, that read K and V once for all query heads of their group; splits are
// merged by their maxima. 16 bytes a load; a token's row is read by head_dim / 8 neighbouring
// threads.
#include "worker/ops/cuda/device.cuh"

namespace tailor::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kTokensAtOnce = 4;  // of one lane group: K and V loads in flight before the first use
constexpr float kLowest = -__builtin_huge_valf();

// The running softmax of one lane group: kQueries query heads, 8 channels a lane.
template <int kQueries>
struct Running {
  float max[kQueries], sum[kQueries], out[kQueries][8];
};

__device__ __forceinline__ void Widen(const uint4& raw, float* out) {
  Bf16Pair(raw.x, out);
  Bf16Pair(raw.y, out + 2);
  Bf16Pair(raw.z, out + 4);
  Bf16Pair(raw.w, out + 6);
}

template <int kLanes>
__device__ __forceinline__ float GroupSum(float value) {
#pragma unroll
  for (int mask = kLanes / 2; mask > 0; mask /= 2) {
    value += __shfl_xor_sync(kWholeWarp, value, mask);
  }
  return value;
}

// Takes kTokensAtOnce tokens whose scores are `scores` (kLowest: none) into the softmax.
template <int kQueries>
__device__ __forceinline__ void Take(const float (&scores)[kTokensAtOnce][kQueries],
                                     const uint4 (&v)[kTokensAtOnce], Running<kQueries>& run) {
#pragma unroll
  for (int g = 0; g < kQueries; ++g) {
    float max = run.max[g];
#pragma unroll
    for (int t = 0; t < kTokensAtOnce; ++t) max = fmaxf(max, scores[t][g]);
    if (max == kLowest) continue;  // nothing yet
    const float keep = run.max[g] == max ? 1.0f : expf(run.max[g] - max);
    run.max[g] = max;
    run.sum[g] *= keep;
#pragma unroll
    for (int c = 0; c < 8; ++c) run.out[g][c] *= keep;
  }
#pragma unroll
  for (int t = 0; t < kTokensAtOnce; ++t) {
    float value[8];
    Widen(v[t], value);
#pragma unroll
    for (int g = 0; g < kQueries; ++g) {
      if (scores[t][g] == kLowest) continue;
      const float weight = expf(scores[t][g] - run.max[g]);
      run.sum[g] += weight;
#pragma unroll
      for (int c = 0; c < 8; ++c) run.out[g][c] = fmaf(weight, value[c], run.out[g][c]);
    }
  }
}

// The softmax of tokens [first, last) as far as this lane group reads them.
template <int kDim, int kQueries>
__device__ __forceinline__ void ReadSplit(const SegmentRef* segments, int32_t count, int32_t first,
                                          int32_t last, const float (&q)[kQueries][8],
                                          Running<kQueries>& run) {
  constexpr int kLanes = kDim / 8, kGroups = kThreads / kLanes;
  const int lane = threadIdx.x % kLanes, group = threadIdx.x / kLanes;
  for (int32_t base = first; base < last; base += kGroups * kTokensAtOnce) {
    uint4 k[kTokensAtOnce], v[kTokensAtOnce];
    float scores[kTokensAtOnce][kQueries];
#pragma unroll
    for (int t = 0; t < kTokensAtOnce; ++t) {
      const int32_t token = min(base + t * kGroups + group, last - 1);
      const auto* row = reinterpret_cast<const uint4*>(RowOf(segments, count, token, kDim));
      k[t] = row[lane];
      v[t] = row[kLanes + lane];
    }
#pragma unroll
    for (int t = 0; t < kTokensAtOnce; ++t) {
      float key[8];
      Widen(k[t], key);
      const bool inside = base + t * kGroups + group < last;
#pragma unroll
      for (int g = 0; g < kQueries; ++g) {
        float dot = 0.0f;
#pragma unroll
        for (int c = 0; c < 8; ++c) dot = fmaf(q[g][c], key[c], dot);
        dot = GroupSum<kLanes>(dot);
        scores[t][g] = inside ? dot : kLowest;
      }
    }
    Take(scores, v, run);
  }
}

// Adds the block's lane groups, in order, into one partial softmax.
template <int kDim, int kQueries>
__device__ __forceinline__ void Store(const Running<kQueries>& run, const Partials& partials,
                                      int64_t first_head, int32_t heads, int32_t split) {
  constexpr int kLanes = kDim / 8, kGroups = kThreads / kLanes;
  __shared__ float max_of[kGroups], sum_of[kGroups], out_of[kGroups][kDim];
  const int lane = threadIdx.x % kLanes, group = threadIdx.x / kLanes;
#pragma unroll
  for (int g = 0; g < kQueries; ++g) {
    __syncthreads();
    if (lane == 0) {
      max_of[group] = run.max[g];
      sum_of[group] = run.sum[g];
    }
#pragma unroll
    for (int c = 0; c < 8; ++c) out_of[group][lane * 8 + c] = run.out[g][c];
    __syncthreads();
    if (g >= heads || threadIdx.x >= kDim) continue;
    float max = kLowest, sum = 0.0f, out = 0.0f;
    for (int i = 0; i < kGroups; ++i) max = fmaxf(max, max_of[i]);
    for (int i = 0; i < kGroups; ++i) {
      const float weight = max_of[i] == kLowest ? 0.0f : MergeWeight(max_of[i], max);
      sum = fmaf(weight, sum_of[i], sum);
      out = fmaf(weight, out_of[i][threadIdx.x], out);
    }
    const int64_t slot = (first_head + g) * partials.splits + split;
    partials.out[slot * kDim + threadIdx.x] = out;
    if (threadIdx.x == 0) partials.state[slot] = {max, sum};
  }
}

// Grid: splits, KV heads times parts of a group, queries.
template <int kDim, int kQueries>
__global__ void __launch_bounds__(kThreads)
    AttendRowsKernel(QueryTable query, KeyTable keys, SplitPlan plan, int32_t first_split,
                     Partials partials) {
  const int32_t group = query.q_heads / keys.kv_heads, parts = (group + kQueries - 1) / kQueries;
  const int32_t kv_head = static_cast<int32_t>(blockIdx.y) / parts,
                part = static_cast<int32_t>(blockIdx.y) % parts;
  const auto row = static_cast<int32_t>(blockIdx.z), split = static_cast<int32_t>(blockIdx.x);
  const int32_t visible = query.causal ? keys.tokens - (query.q.rows - 1 - row) : keys.tokens;
  const int32_t head = kv_head * group + part * kQueries,
                heads = min(kQueries, group - part * kQueries);
  const int lane = threadIdx.x % (kDim / 8);
  const float scale = 1.0f / sqrtf(static_cast<float>(kDim));
  float q[kQueries][8];
  Running<kQueries> run;
#pragma unroll
  for (int g = 0; g < kQueries; ++g) {
    const float* from = query.q.data + row * query.q.stride +
                        static_cast<int64_t>(head + min(g, heads - 1)) * kDim + lane * 8;
    run.max[g] = kLowest;
    run.sum[g] = 0.0f;
#pragma unroll
    for (int c = 0; c < 8; ++c) {
      q[g][c] = from[c] * scale;
      run.out[g][c] = 0.0f;
    }
  }
  const int32_t start = keys.starts[kv_head], count = keys.starts[kv_head + 1] - start;
  const int32_t first = plan.First(split), last = plan.Last(split, visible);
  if (first < last) ReadSplit<kDim, kQueries>(keys.segments + start, count, first, last, q, run);
  Store<kDim, kQueries>(run, partials, static_cast<int64_t>(row) * query.q_heads + head, heads,
                        first_split + split);
}

// The natural log of the first `splits` partials' sum.
__device__ float LogSum(const PartialSoftmax* state, int32_t splits) {
  float max = kLowest, sum = 0.0f;
  for (int32_t s = 0; s < splits; ++s) max = fmaxf(max, state[s].max);
  for (int32_t s = 0; s < splits; ++s) {
    if (state[s].max != kLowest) sum = fmaf(MergeWeight(state[s].max, max), state[s].sum, sum);
  }
  return max + logf(sum);
}

// A block an output head: the splits' sums in order, each weighted by e^(its max - the whole max),
// the maxima of means raised by their weight.
__global__ void MergeKernel(Partials partials, int32_t head_dim, int32_t q_heads, Rows<float> out,
                            Rows<float> lse) {
  const auto head = static_cast<int32_t>(blockIdx.x), row = static_cast<int32_t>(blockIdx.y);
  const int64_t first = (static_cast<int64_t>(row) * q_heads + head) * partials.splits;
  const PartialSoftmax* state = partials.state + first;
  float max = kLowest, sum = 0.0f, value = 0.0f;
  for (int32_t s = 0; s < partials.splits; ++s) max = fmaxf(max, partials.Max(state[s], s));
  for (int32_t s = 0; s < partials.splits; ++s) {
    if (state[s].max == kLowest) continue;
    const float weight = MergeWeight(partials.Max(state[s], s), max);
    sum = fmaf(weight, state[s].sum, sum);
    value = fmaf(weight, partials.out[(first + s) * head_dim + threadIdx.x], value);
  }
  out.data[row * out.stride + static_cast<int64_t>(head) * head_dim + threadIdx.x] = value / sum;
  if (lse.data != nullptr && threadIdx.x == 0) {
    lse.data[row * lse.stride + head] = LogSum(state, partials.splits - partials.mean_splits);
  }
}

template <int kDim, int kQueries>
void Launch(const QueryTable& q, const KeyTable& keys, const SplitPlan& plan, int32_t first_split,
            const Partials& partials, CudaStreamRef stream) {
  const int32_t group = q.q_heads / keys.kv_heads, parts = (group + kQueries - 1) / kQueries;
  const dim3 grid(plan.splits, keys.kv_heads * parts, q.q.rows);
  LaunchKernel(AttendRowsKernel<kDim, kQueries>, grid, kThreads, 0, stream, q, keys, plan,
               first_split, partials);
}

template <int kDim>
void LaunchGroup(const QueryTable& q, const KeyTable& keys, const SplitPlan& plan,
                 int32_t first_split, const Partials& partials, CudaStreamRef stream) {
  const int32_t group = q.q_heads / keys.kv_heads;
  if (group == 1) return Launch<kDim, 1>(q, keys, plan, first_split, partials, stream);
  if (group == 2) return Launch<kDim, 2>(q, keys, plan, first_split, partials, stream);
  if (group <= 4) return Launch<kDim, 4>(q, keys, plan, first_split, partials, stream);
  Launch<kDim, 8>(q, keys, plan, first_split, partials, stream);
}

}  // namespace

void LaunchAttendRows(const QueryTable& q, const KeyTable& keys, const SplitPlan& plan,
                      int32_t first_split, const Partials& partials, CudaStreamRef stream) {
  if (keys.head_dim == 64) {
    LaunchGroup<64>(q, keys, plan, first_split, partials, stream);
  } else {
    LaunchGroup<128>(q, keys, plan, first_split, partials, stream);
  }
}

void LaunchMergeSplits(const Partials& partials, int32_t head_dim, int32_t q_heads, Rows<float> out,
                       Rows<float> lse, CudaStreamRef stream) {
  const dim3 grid(q_heads, out.rows);
  LaunchKernel(MergeKernel, grid, head_dim, 0, stream, partials, head_dim, q_heads, out, lse);
}

}  // namespace tailor::cuda
