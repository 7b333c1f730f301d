// What follows the scores of a selection without the CPU: exact top-k (select_math.h has its rule),
// the rows gathered from wherever they lie, mapped memory of the host included; and copies of the
// index.
#include "worker/ops/cuda/device.cuh"
#include "worker/ops/cuda/row_cache.h"
#include "worker/ops/cuda/row_check.h"
#include "worker/ops/cuda/select_math.h"

namespace tailor::cuda {
namespace {

constexpr int kTopKThreads = 1024;

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
               const int32_t* all_names, int32_t* tokens) {
  __shared__ uint32_t bins[RadixSelect::kBins];
  __shared__ RadixSelect select;
  __shared__ int32_t warp_counts[kTopKThreads / 32];
  const float* scores = all_scores + static_cast<int64_t>(blockIdx.x) * stride;
  const int32_t* names =
      all_names == nullptr ? nullptr : all_names + static_cast<int64_t>(blockIdx.x) * stride;
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
    if (take) out[written + place] = names == nullptr ? t : names[t];
    ties_left -= min(ties, ties_left);
    written += taken;
  }
}

// The check of a row of which this lane holds 16 bytes, or nothing beyond its end.
__device__ __forceinline__ uint32_t CheckOf(const uint4& piece, int32_t lane, int32_t bytes) {
  CheckSums sums;
  if (lane * kCheckPiece < bytes) {
    sums = CheckOfPiece(piece.x | static_cast<uint64_t>(piece.y) << 32,
                        piece.z | static_cast<uint64_t>(piece.w) << 32, lane * kCheckPiece, bytes);
  }
#pragma unroll
  for (int mask = 4; mask < 32; mask *= 2) {  // the same place in other stripes
    sums.a += __shfl_xor_sync(kWholeWarp, sums.a, mask);
    sums.b += __shfl_xor_sync(kWholeWarp, sums.b, mask);
  }
  uint64_t folds = FoldChecks(sums, lane % 4 * kCheckPiece);
  folds += __shfl_xor_sync(kWholeWarp, folds, 1);
  folds += __shfl_xor_sync(kWholeWarp, folds, 2);
  return FinishCheck(folds, bytes);
}

// A block a head, a thread a set.
__global__ void __launch_bounds__(128)
    PlanRowsKernel(RowCache cache, const int32_t* tokens, int32_t k, int32_t* sources,
                   GatherReport* report) {
  const auto head = static_cast<int64_t>(blockIdx.x);
  int32_t hits = 0;
  for (int32_t set = threadIdx.x; set < cache.slots / kRowCacheWays; set += 128) {
    hits += PlanSet(cache.tags + head * cache.slots, cache.used + head * cache.slots, cache.slots,
                    set, cache.step, tokens + head * k, k, sources + head * k);
  }
  if (hits > 0) atomicAdd(&report->cached_rows, static_cast<uint32_t>(hits));
}

// A warp a row: 16 bytes a lane.
__global__ void __launch_bounds__(128)
    GatherKernel(SelectTable table, const int32_t* tokens, const int32_t* sources, int32_t k,
                 uint16_t* rows, GatherReport* report) {
  const auto i = static_cast<int32_t>(blockIdx.x * 4 + threadIdx.x / 32),
             head = static_cast<int32_t>(blockIdx.y);
  if (i >= k) return;
  const int64_t place = int64_t{head} * k + i, elements = 2 * table.head_dim;
  const int32_t token = tokens[place], lane = threadIdx.x % 32;
  const int32_t source = sources == nullptr ? kNotKept : sources[place];
  const int32_t bytes = 4 * table.head_dim, slice = table.row_slice + head;
  const bool holds = lane * kCheckPiece < bytes;
  const IndexPage page = table.pages[token / kPageRows];
  uint16_t* kept = table.cache.rows + int64_t{head} * table.cache.slots * elements;
  const uint16_t* row = source >= 0
                            ? kept + source * elements
                            : page.rows + slice * table.strides.rows + token % kPageRows * elements;
  uint4 piece = {0, 0, 0, 0};
  if (holds) {
    piece = reinterpret_cast<const uint4*>(row)[lane];
    reinterpret_cast<uint4*>(rows + place * elements)[lane] = piece;
  }
  if (source >= 0) return;  // was checked when it came
  if (holds && source != kNotKept) {
    reinterpret_cast<uint4*>(kept + FillSlot(source) * elements)[lane] = piece;
  }
  const uint32_t check = CheckOf(piece, lane, bytes);
  if (lane != 0 || check == page.checks[slice * table.strides.checks + token % kPageRows]) return;
  if (atomicAdd(&report->bad_rows, 1u) > 0) return;
  report->bad_slice = slice;
  report->bad_token = token;
}

__device__ __forceinline__ void CopyPieces(const void* from, int32_t bytes, std::byte* to) {
  for (int32_t l = threadIdx.x; l < bytes / 16; l += 128) {
    reinterpret_cast<uint4*>(to)[l] = static_cast<const uint4*>(from)[l];
  }
}

// A block a page and slice.
__global__ void __launch_bounds__(128)
    CopyIndexKernel(const IndexPage* pages, IndexStrides strides, int32_t slices, int32_t head_dim,
                    std::byte* const* sketches) {
  const IndexPage page = pages[blockIdx.x];
  const auto slice = static_cast<int64_t>(blockIdx.y);
  const int64_t codes = int64_t{head_dim} * kIndexCodeBytes, params = int64_t{head_dim} * 4;
  std::byte* sketch = sketches[blockIdx.x];
  CopyPieces(page.codes + slice * strides.codes, codes, sketch + slice * codes);
  sketch += slices * codes + slice * params;
  CopyPieces(page.scale + slice * strides.params, params, sketch);
  CopyPieces(page.min + slice * strides.params, params, sketch + slices * params);
}

}  // namespace

void LaunchTopK(const float* scores, int32_t stride, int32_t first, int32_t last, int32_t kv_heads,
                int32_t k, const int32_t* names, int32_t* tokens, CudaStreamRef stream) {
  LaunchKernel(TopKKernel, kv_heads, kTopKThreads, 0, stream, scores, stride, first, last, k, names,
               tokens);
}

void LaunchPlanRows(const SelectTable& table, const int32_t* tokens, int32_t k, int32_t* sources,
                    GatherReport* report, CudaStreamRef stream) {
  LaunchKernel(PlanRowsKernel, table.kv_heads, 128, 0, stream, table.cache, tokens, k, sources,
               report);
}

void LaunchGather(const SelectTable& table, const int32_t* tokens, const int32_t* sources,
                  int32_t k, uint16_t* rows, GatherReport* report, CudaStreamRef stream) {
  const dim3 grid((k + 3) / 4, table.kv_heads);
  LaunchKernel(GatherKernel, grid, 128, 0, stream, table, tokens, sources, k, rows, report);
}

void LaunchCopyIndex(const IndexPage* pages, const IndexStrides& strides, int32_t count,
                     int32_t slices, int32_t head_dim, std::byte* const* sketches,
                     CudaStreamRef stream) {
  const dim3 grid(count, slices);
  LaunchKernel(CopyIndexKernel, grid, 128, 0, stream, pages, strides, slices, head_dim, sketches);
}

}  // namespace tailor::cuda
