// Products of up to kSkinnyRows rows on tensor cores, bound by reading the weights, for formats
// whose codes are exact in bf16. Weights are the left operand (16 outputs), rows of x the right one
// (8).
//
// A warp reads 16 (or 32) weight rows: lane l takes 16 bytes of rows l / 4 and l / 4 + 8, so that a
// quad of lanes holds 64 bytes of a row: a group of 1, 2 or 4 blocks of 32 inputs. Which input is
// which k of an instruction is free as long as both operands agree: each format has the order in
// which its bytes are fragments (`Codes`). The block's eight warps take every eighth group, so each
// value of x is needed by one warp alone, and by the very lane that needs it as a fragment: x comes
// from global memory into registers, as three bf16 parts whose sum it is exactly.
//
// Sums: each block of 32 inputs has an accumulator of its own, parts from low to high; a warp adds
// blocks in order (with their scale), then warp after warp. Nothing of this depends on the number
// of rows, of outputs or of tiles: a row alone and in a batch have the same bits
// (docs/decisions/0013-decode-products.md).
#include <type_traits>

#include "worker/ops/cuda/device.cuh"
#include "worker/ops/cuda/linear_jobs.h"
#include "worker/ops/cuda/mma_inputs.cuh"

namespace tailor::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kTileRows = 16;

// What a lane holds of a group: 16 bytes of two rows of each tile, and their block's scale.
template <WeightType Type, int kTiles>
struct Group {
  uint4 codes[kTiles][2];
  uint32_t scales[kTiles][2];
};

// Which 16 weight rows a block's tile is.
struct RowsOfOne {
  const WeightRef& w;
  int32_t first;
  __device__ __forceinline__ const WeightRef& weight(int) const { return w; }
  __device__ __forceinline__ int32_t row(int tile) const { return first + tile * kTileRows; }
};
struct RowsOfTwo {
  const WeightRef &gate, &up;
  int32_t first;
  __device__ __forceinline__ const WeightRef& weight(int tile) const {
    return tile == 0 ? gate : up;
  }
  __device__ __forceinline__ int32_t row(int) const { return first; }
};

template <WeightType Type, int kTiles, typename Tiles>
__device__ __forceinline__ void LoadGroup(const Tiles& tiles, int32_t blocks, int32_t group,
                                          Group<Type, kTiles>* out) {
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  const int32_t piece = 4 * group + lane % 4;
  // Of a row; bf16 rows may end within a block.
  const int32_t pieces =
      Codes<Type>::kScaled ? blocks * (4 / Codes<Type>::kBlocks) : tiles.weight(0).pieces;
  const bool inside = piece < pieces;
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const WeightRef& w = tiles.weight(t);
      // Beyond the last row: the last, whose sums go nowhere.
      const int32_t row = min(tiles.row(t) + lane / 4 + 8 * half, w.rows - 1);
      const int32_t index = row * pieces + piece;
      out->codes[t][half] = LoadStreaming(w.codes, index, inside);
      if constexpr (Codes<Type>::kScaled) {
        const uint32_t block = static_cast<uint32_t>(index) / (4 / Codes<Type>::kBlocks);
        using Scale = std::conditional_t<kHasMinimum<Type>, uint32_t, uint16_t>;
        out->scales[t][half] =
            inside ? __ldg(static_cast<const Scale*>(w.scales) + block) : Scale{0};
      }
    }
  }
}

// Adds a block's sums of codes to a row's, for two columns. With a minimum a weight is
// d * code + m = d * (code - 8) + (m + 8 d): both terms are as small as the weights usually are.
template <WeightType Type>
__device__ __forceinline__ void AddScaled(const float* sum, const float* inputs, uint32_t scale,
                                          float* acc) {
  if constexpr (!Codes<Type>::kScaled) {
    acc[0] += sum[0];
    acc[1] += sum[1];
    return;
  }
  const float d = HalfBits(scale & 0xffffu);
  acc[0] = fmaf(d, sum[0], acc[0]);
  acc[1] = fmaf(d, sum[1], acc[1]);
  if constexpr (kHasMinimum<Type>) {
    const float m = fmaf(8.0f, d, HalfBits(scale >> 16));
    acc[0] = fmaf(m, inputs[0], acc[0]);
    acc[1] = fmaf(m, inputs[1], acc[1]);
  }
}

// The lane's words of a group in the order of its blocks.
template <WeightType Type, int kTiles>
struct Words {
  uint32_t codes[kTiles][2][4];
  uint32_t scales[kTiles][2];
};

template <WeightType Type, int kTiles>
__device__ __forceinline__ Words<Type, kTiles> TakeGroup(const Group<Type, kTiles>& group) {
  Words<Type, kTiles> out = {};
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint4& raw = group.codes[t][half];
      uint32_t* to = out.codes[t][half];
      to[0] = raw.x, to[1] = raw.y, to[2] = raw.z, to[3] = raw.w;
      Codes<Type>::Share(to);
      if constexpr (Codes<Type>::kScaled) out.scales[t][half] = group.scales[t][half];
    }
  }
  return out;
}

// Adds a block's sums of codes to those of the lane's two rows.
template <WeightType Type, int kColumnTiles>
__device__ __forceinline__ void AddRows(const float (&sum)[kColumnTiles][4],
                                        const Operand<kColumnTiles>& x, const uint32_t* scales,
                                        int source, float (&acc)[kColumnTiles][4]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint32_t scale = 0;
    if constexpr (Codes<Type>::kScaled) scale = __shfl_sync(kWholeWarp, scales[half], source);
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
      AddScaled<Type>(sum[n] + 2 * half, x.sums[n], scale, acc[n] + 2 * half);
    }
  }
}

// acc += block `block` of the group.
template <WeightType Type, int kTiles, int kColumnTiles>
__device__ __forceinline__ void AddBlock(const Words<Type, kTiles>& w, int block,
                                         const Operand<kColumnTiles>& x,
                                         float (&acc)[kTiles][kColumnTiles][4]) {
  constexpr int kWords = 4 / Codes<Type>::kBlocks;
  const int source = static_cast<int>(threadIdx.x % 32 / 4 * 4) + block * kWords;
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
    uint32_t top[4], bottom[4];
    Codes<Type>::Pairs(w.codes[t][0] + block * kWords, top);
    Codes<Type>::Pairs(w.codes[t][1] + block * kWords, bottom);
    float sum[kColumnTiles][4] = {};
#pragma unroll
    for (int i = 0; i < 2 * kParts; ++i) {
      const int pair = 2 * (i % 2);
      const uint32_t left[4] = {top[pair], bottom[pair], top[pair + 1], bottom[pair + 1]};
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n) Mma(sum[n], left, x.parts[n][i / 2] + pair);
    }
    AddRows<Type>(sum, x, w.scales[t], source, acc[t]);
  }
}

// Groups on their way while one is multiplied, as many as registers allow: 64 bytes a lane and
// group with two tiles, so 96 KB for two blocks that share a multiprocessor (bf16 128 KB, Q8_0 64
// KB).
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr int kNibblesAhead = 4;  // three groups of two tiles spill 8 bytes there
#else
constexpr int kNibblesAhead = 6;
#endif
template <WeightType Type, int kTiles>
constexpr int kAhead = (Type == WeightType::kBF16   ? 8
                        : Type == WeightType::kQ8_0 ? 4
                                                    : kNibblesAhead) /
                       kTiles;

// Sums of one warp.
template <WeightType Type, int kTiles, int kColumnTiles, typename Tiles>
__device__ __forceinline__ void WarpProducts(const Rows<const float>& x, const Tiles& tiles,
                                             float (&acc)[kTiles][kColumnTiles][4]) {
  constexpr int kBlocks = Codes<Type>::kBlocks, kDepth = kAhead<Type, kTiles>;
  // The same in all lanes, and by the exchange the compiler knows: what follows from it needs no
  // registers of each lane.
  const int32_t warp = __shfl_sync(kWholeWarp, static_cast<int32_t>(threadIdx.x / 32), 0);
  const int32_t blocks = x.cols / 32;
  Group<Type, kTiles> ring[kDepth];
#pragma unroll
  for (int slot = 0; slot < kDepth; ++slot) {
    LoadGroup(tiles, blocks, warp + slot * kWarps, &ring[slot]);
  }
  // Columns beyond the last row of x repeat it: no column has to do with another, and those sums go
  // nowhere.
  const int lane = threadIdx.x % 32;
  const float* rows[kColumnTiles];
#pragma unroll
  for (int n = 0; n < kColumnTiles; ++n) {
    rows[n] = x.data + min(lane / 4 + n * kTileColumns, x.rows - 1) * x.stride +
              Codes<Type>::First(lane % 4);
  }
  Inputs<kColumnTiles> next;
  LoadInputs<Type>(rows, min(warp * kBlocks, blocks - 1), &next);
  for (int32_t round = warp; round * kBlocks < blocks; round += kDepth * kWarps) {
#pragma unroll
    for (int slot = 0; slot < kDepth; ++slot) {
      const int32_t group = round + slot * kWarps;
      if (group * kBlocks >= blocks) break;
      const Words<Type, kTiles> words = TakeGroup(ring[slot]);
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
        const int32_t block = group * kBlocks + b;
        if (block >= blocks) break;
        const Operand<kColumnTiles> operand = MakeOperand<Type>(next);
        const int32_t after = b + 1 < kBlocks ? block + 1 : (group + kWarps) * kBlocks;
        LoadInputs<Type>(rows, min(after, blocks - 1), &next);
        AddBlock(words, b, operand, acc);
      }
      LoadGroup(tiles, blocks, group + kDepth * kWarps, &ring[slot]);
    }
  }
}

// Sums of the block, in sums[warp][row of x][weight row] of shared memory.
template <WeightType Type, int kTiles, int kColumnTiles, typename Tiles>
__device__ __forceinline__ void BlockProducts(const Rows<const float>& x, const Tiles& tiles,
                                              float* sums) {
  constexpr int kOuts = kTiles * kTileRows;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float acc[kTiles][kColumnTiles][4] = {};
  WarpProducts<Type>(x, tiles, acc);
  float* mine = sums + warp * kColumnTiles * kTileColumns * kOuts;
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int column = n * kTileColumns + lane % 4 * 2 + i % 2;
        mine[column * kOuts + t * kTileRows + lane / 4 + i / 2 * 8] = acc[t][n][i];
      }
    }
  }
  __syncthreads();
}

// Blocks that share a multiprocessor: what the registers of one allow.
constexpr int BlocksFor(int column_tiles) { return column_tiles == 1 ? 2 : 1; }

template <WeightType Type, int kTiles, int kColumnTiles>
__global__ void __launch_bounds__(kThreads, BlocksFor(kColumnTiles))
    LinearMmaKernel(Rows<const float> x, const __grid_constant__ JobTable table,
                    Epilogue epilogue) {
  constexpr int kOuts = kTiles * kTileRows, kCount = kOuts * kColumnTiles * kTileColumns;
  __shared__ float sums[kWarps * kCount];
  const auto block = static_cast<int32_t>(blockIdx.x);
  const int32_t j = table.JobOf(block);
  const LinearJob& job = table.job[j];
  const int32_t first = (block - table.first_block[j]) * kOuts;
  BlockProducts<Type, kTiles, kColumnTiles>(x, RowsOfOne{job.w, first}, sums);
  for (int index = threadIdx.x; index < kCount; index += kThreads) {
    const int32_t row = index / kOuts, out = first + index % kOuts;
    if (row >= x.rows || out >= job.w.rows) continue;
    const float sum = AddWarps<kWarps, kCount>(sums, index);
    float* target = job.out.data + row * job.out.stride + out;
    *target = epilogue == Epilogue::kAdd ? *target + sum : sum;
  }
}

// The first tile is of gate, the second of up.
template <WeightType Type, int kColumnTiles>
__global__ void __launch_bounds__(kThreads, BlocksFor(kColumnTiles))
    GatedMmaKernel(Rows<const float> x, const __grid_constant__ WeightRef gate,
                   const __grid_constant__ WeightRef up, Rows<float> out) {
  constexpr int kOuts = 2 * kTileRows, kCount = kOuts * kColumnTiles * kTileColumns;
  __shared__ float sums[kWarps * kCount];
  const int32_t first = static_cast<int32_t>(blockIdx.x) * kTileRows;
  BlockProducts<Type, 2, kColumnTiles>(x, RowsOfTwo{gate, up, first}, sums);
  for (int index = threadIdx.x; index < kCount / 2; index += kThreads) {
    const int32_t row = index / kTileRows, column = first + index % kTileRows;
    if (row >= x.rows || column >= gate.rows) continue;
    const int at = row * kOuts + index % kTileRows;
    const float a = AddWarps<kWarps, kCount>(sums, at), u = AddWarps<kWarps, kCount>(sums, at + kTileRows);
    out.data[row * out.stride + column] = Silu(a) * u;
  }
}

// Below this many blocks of two tiles, one tile a block: more multiprocessors have something to do.
constexpr int32_t kFewBlocks = 120;

template <WeightType Type, int kTiles, int kColumnTiles>
void LaunchTiles(Rows<const float> x, const LinearJob* jobs, int32_t count, Epilogue epilogue,
                 CudaStreamRef stream) {
  const JobTable table = MakeJobTable(jobs, count, kTiles * kTileRows, 0, x.rows);
  LaunchKernel(LinearMmaKernel<Type, kTiles, kColumnTiles>, table.blocks(), kThreads, 0, stream, x,
               table, epilogue);
}

template <typename F>
void DispatchMma(WeightType type, F f) {
  switch (type) {
    case WeightType::kBF16:
      return f.template operator()<WeightType::kBF16>();
    case WeightType::kQ8_0:
      return f.template operator()<WeightType::kQ8_0>();
    case WeightType::kQ4_0:
      return f.template operator()<WeightType::kQ4_0>();
    case WeightType::kQ4_1:
      return f.template operator()<WeightType::kQ4_1>();
    case WeightType::kF32:
    case WeightType::kF16:
    case WeightType::kQ4_K:
    case WeightType::kQ6_K:
      break;
  }
}

}  // namespace

void LaunchLinearMma(Rows<const float> x, const LinearJob* jobs, int32_t count, Epilogue epilogue,
                     CudaStreamRef stream) {
  const bool few = MakeJobTable(jobs, count, 2 * kTileRows, 0, x.rows).blocks() < kFewBlocks;
  DispatchMma(jobs[0].w.type, [&]<WeightType Type>() {
    const bool narrow = x.rows <= kTileColumns;
    const auto launch = few ? (narrow ? LaunchTiles<Type, 1, 1> : LaunchTiles<Type, 1, 2>)
                            : (narrow ? LaunchTiles<Type, 2, 1> : LaunchTiles<Type, 2, 2>);
    launch(x, jobs, count, epilogue, stream);
  });
}

void LaunchGatedMma(Rows<const float> x, const WeightRef& gate, const WeightRef& up,
                    Rows<float> out, CudaStreamRef stream) {
  const int32_t blocks = (gate.rows + kTileRows - 1) / kTileRows;
  DispatchMma(gate.type, [&]<WeightType Type>() {
    const auto kernel = x.rows <= kTileColumns ? GatedMmaKernel<Type, 1> : GatedMmaKernel<Type, 2>;
    LaunchKernel(kernel, blocks, kThreads, 0, stream, x, gate, up, out);
  });
}

}  // namespace tailor::cuda
