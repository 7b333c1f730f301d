// A row of logits reduced where it lies: every block makes one piece's sums and its best keys in
// one read, then blocks merge sorted lists until one is left. Keys are distinct, so the order in
// which they meet does not matter; sums go in the order of logit_math.h. The result has the CPU's
// bits.
#include "worker/ops/cuda/device.cuh"
#include "worker/ops/logit_math.h"

namespace tailor::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kTerms = kLogitUnit / kLogitLanes;  // of a lane
static_assert(kWarps * kLogitUnit == kLogitPiece && kLogitLanes == 32);

// This thread's tokens of a piece: kTerms of them, every 32nd from here.
__device__ __forceinline__ int FirstOfMine() {
  return threadIdx.x / 32 * kLogitUnit + threadIdx.x % 32;
}

__device__ __forceinline__ float BlockMax(const float* piece, float* warp_maxima) {
  const float* mine = piece + FirstOfMine();
  float max = -INFINITY;
#pragma unroll
  for (int i = 0; i < kTerms; ++i) max = fmaxf(mine[i * kLogitLanes], max);  // NaN has no part
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) {
    max = fmaxf(__shfl_xor_sync(kWholeWarp, max, mask), max);
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) warp_maxima[threadIdx.x / 32] = max;
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) max = fmaxf(warp_maxima[w], max);
  return max;
}

// The sum of e^(x - max) of a piece, a warp a unit.
__device__ __forceinline__ double BlockSum(const float* piece, float max, double* units) {
  const float* mine = piece + FirstOfMine();
  double sum = 0;
#pragma unroll 2
  for (int i = 0; i < kTerms; ++i) {
    sum = PlusRounded(sum, LogitTerm(mine[i * kLogitLanes], max));
  }
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) {
    sum = PlusRounded(sum, __shfl_xor_sync(kWholeWarp, sum, mask));
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) units[threadIdx.x / 32] = sum;
  __syncthreads();
  sum = 0;
  for (int w = 0; w < kWarps; ++w) sum = PlusRounded(sum, units[w]);
  return sum;
}

// Exchanges keys so that [at] is the larger of the pair `stride` apart, or the smaller.
__device__ __forceinline__ void Order(uint64_t* keys, int at, int stride, bool larger_first) {
  const uint64_t a = keys[at], b = keys[at + stride];
  if ((a < b) == larger_first) {
    keys[at] = b;
    keys[at + stride] = a;
  }
}
// Where pair i of those `stride` apart begins.
__device__ __forceinline__ int PairAt(int i, int stride) {
  return i / stride * 2 * stride + i % stride;
}

// Sorts each run of `run` of the kLogitPiece keys, largest first (bitonic; run a power of two).
__device__ void SortRuns(uint64_t* keys, int run) {
  for (int size = 2; size <= run; size *= 2) {
    for (int stride = size / 2; stride > 0; stride /= 2) {
      __syncthreads();
      for (int i = threadIdx.x; i < kLogitPiece / 2; i += kThreads) {
        const int at = PairAt(i, stride);
        Order(keys, at, stride, size == run || (at & size) == 0);
      }
    }
  }
  __syncthreads();
}

// Leaves the best `run` keys of all sorted runs as the first run. Of two sorted runs a and b the
// larger ones of a[i] and b[run - 1 - i] are the best, and rise and fall once.
__device__ void MergeRuns(uint64_t* keys, int run) {
  for (int left = kLogitPiece / 2; left >= run; left /= 2) {  // keys that stay
    for (int i = threadIdx.x; i < left; i += kThreads) {
      const int mirror = left + i / run * run + run - 1 - i % run;
      if (keys[mirror] > keys[i]) keys[i] = keys[mirror];
    }
    for (int stride = run / 2; stride > 0; stride /= 2) {
      __syncthreads();
      for (int i = threadIdx.x; i < left / 2; i += kThreads) {
        Order(keys, PairAt(i, stride), stride, true);
      }
    }
    __syncthreads();
  }
}

// Block (piece, row).
__global__ void __launch_bounds__(kThreads)
    ReducePiecesKernel(Rows<const float> logits, const LogitRow* rows, int32_t run,
                       LogitPieceSums* all_sums, uint64_t* best) {
  __shared__ uint64_t keys[kLogitPiece];
  __shared__ float piece[kLogitPiece];  // logits, then values
  __shared__ float warp_maxima[kWarps];
  __shared__ double units[kWarps];
  const auto row = static_cast<int32_t>(blockIdx.y);
  const LogitRow asked = rows[row];
  if (!asked.wanted) return;
  const float* x = logits.data + row * logits.stride;
  const int32_t first = static_cast<int32_t>(blockIdx.x) * kLogitPiece;
  const int32_t end = min(first + kLogitPiece, logits.cols);
  for (int i = 0, at = FirstOfMine(); i < kTerms; ++i, at += kLogitLanes) {
    piece[at] = first + at < end ? x[first + at] : -INFINITY;
  }
  LogitPieceSums sums;
  sums.max_logit = BlockMax(piece, warp_maxima);
  sums.sum = BlockSum(piece, sums.max_logit, units);
  const int32_t from = FirstFrom(asked.adjustments, asked.count, first);
  const int32_t to = from + FirstFrom(asked.adjustments + from, asked.count - from, end);
  for (int32_t i = from + static_cast<int32_t>(threadIdx.x); i < to; i += kThreads) {
    const LogitAdjustment a = asked.adjustments[i];
    piece[a.token - first] = AdjustedLogit(piece[a.token - first], a.repetition, a.subtract);
  }
  __syncthreads();
  for (int i = 0, at = FirstOfMine(); i < kTerms; ++i, at += kLogitLanes) {
    piece[at] = LogitValue(piece[at], asked.temperature);
    keys[at] = first + at < end ? CandidateKey(piece[at], first + at) : 0;
  }
  if (asked.mass) {
    sums.max_value = BlockMax(piece, warp_maxima);
    sums.mass = BlockSum(piece, sums.max_value, units);
  }
  const int64_t place = int64_t{row} * gridDim.x + blockIdx.x;
  if (threadIdx.x == 0) all_sums[place] = sums;
  SortRuns(keys, run);
  MergeRuns(keys, run);
  for (int i = threadIdx.x; i < run; i += kThreads) best[place * run + i] = keys[i];
}

// Block (group, row): lists [row][lists][run], of which a group is as many as fit a piece, to
// merged [row][groups][run]. A row's only group gives its first `count` as candidates.
__global__ void __launch_bounds__(kThreads)
    MergeBestKernel(const uint64_t* lists, int32_t list_count, int32_t run, uint64_t* merged,
                    Rows<const float> logits, const LogitRow* rows, int32_t count,
                    LogitCandidate* candidates) {
  __shared__ uint64_t keys[kLogitPiece];
  const auto group = static_cast<int64_t>(blockIdx.x), row = static_cast<int64_t>(blockIdx.y);
  if (!rows[row].wanted) return;
  const int64_t from = group * kLogitPiece, size = int64_t{list_count} * run;
  for (int i = threadIdx.x; i < kLogitPiece; i += kThreads) {
    keys[i] = from + i < size ? lists[row * size + from + i] : 0;
  }
  __syncthreads();
  MergeRuns(keys, run);
  if (gridDim.x > 1) {
    for (int i = threadIdx.x; i < run; i += kThreads) {
      merged[(row * gridDim.x + group) * run + i] = keys[i];
    }
    return;
  }
  for (int i = threadIdx.x; i < count; i += kThreads) {
    const int32_t token = TokenOf(keys[i]);
    candidates[row * count + i] = {token, ValueOf(keys[i]),
                                   logits.data[row * logits.stride + token]};
  }
}

}  // namespace

void LaunchReduceLogits(Rows<const float> logits, const LogitRow* rows, const LogitWork& work,
                        CudaStreamRef stream) {
  const int32_t pieces = LogitPieces(logits.cols);
  const dim3 grid(pieces, logits.rows);
  LaunchKernel(ReducePiecesKernel, grid, kThreads, 0, stream, logits, rows, work.run, work.sums,
               work.best);
  uint64_t *from = work.best, *to = work.merged;
  for (int32_t lists = pieces; true;) {
    const int32_t groups = (lists + kLogitPiece / work.run - 1) / (kLogitPiece / work.run);
    const dim3 merging(groups, logits.rows);
    LaunchKernel(MergeBestKernel, merging, kThreads, 0, stream, from, lists, work.run, to, logits,
                 rows, work.count, work.candidates);
    if (groups == 1) return;
    lists = groups;
    uint64_t* const read = from;
    from = to;
    to = read;
  }
}

}  // namespace tailor::cuda
