// Rows of x as right operands of the tensor cores: three parts in bf16 whose sum is the float
// exactly, in the order in which a format's codes are the left one (mma_codes.cuh).
#pragma once

#include "worker/ops/cuda/device.cuh"
#include "worker/ops/cuda/mma_codes.cuh"

namespace tailor::cuda {

inline constexpr int kParts = 3, kTileColumns = 8;

// A lane's eight inputs of one block, of one row of x in each tile of columns.
template <int kColumnTiles>
struct Inputs {
  float value[kColumnTiles][8];
};

// rows[n]: the lane's first input of block 0.
template <WeightType Type, int kColumnTiles>
__device__ __forceinline__ void LoadInputs(const float* const (&rows)[kColumnTiles], int32_t block,
                                           Inputs<kColumnTiles>* out) {
#pragma unroll
  for (int n = 0; n < kColumnTiles; ++n) {
    const float* in = rows[n] + 32 * block;
    const float4 a = __ldg(reinterpret_cast<const float4*>(in));
    const float4 b = __ldg(reinterpret_cast<const float4*>(in + Codes<Type>::kSecondFour));
    const float values[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) out->value[n][i] = values[i];
  }
}

// parts[2] + parts[1] + parts[0] is the value, each its highest 8 bits of significand: a float has
// 24. Cut, not rounded: a large value stays finite.
__device__ __forceinline__ void SplitPair(float first, float second, uint32_t (*parts)[4],
                                          int pair) {
#pragma unroll
  for (int part = kParts - 1; part >= 0; --part) {
    const uint32_t a = FloatBits(first), b = FloatBits(second);
    parts[part][pair] = __byte_perm(a, b, 0x7632);
    first -= BitsFloat(a & 0xffff0000u);
    second -= BitsFloat(b & 0xffff0000u);
  }
}

template <WeightType Type>
__device__ __forceinline__ void Split(const float* values, uint32_t (*parts)[4]) {
#pragma unroll
  for (int pair = 0; pair < 4; ++pair) {
    const int four = pair / 2 * 4, first = Codes<Type>::kAdjacent ? 2 * (pair % 2) : pair % 2;
    SplitPair(values[four + first], values[four + first + (Codes<Type>::kAdjacent ? 1 : 2)], parts,
              pair);
  }
}

// The sums of a block's inputs of rows 2 * (lane % 4) and the next of x: those of this lane's
// accumulators.
__device__ __forceinline__ void InputSums(const float* values, float* sums) {
  float sum = ((values[0] + values[1]) + (values[2] + values[3])) +
              ((values[4] + values[5]) + (values[6] + values[7]));
  sum += __shfl_xor_sync(kWholeWarp, sum, 1);
  sum += __shfl_xor_sync(kWholeWarp, sum, 2);
  const int quad = threadIdx.x % 4;
  sums[0] = __shfl_sync(kWholeWarp, sum, 8 * quad);
  sums[1] = __shfl_sync(kWholeWarp, sum, 8 * quad + 4);
}

// A block's inputs as right operands, and their sums where a format has minima.
template <int kColumnTiles>
struct Operand {
  uint32_t parts[kColumnTiles][kParts][4];
  float sums[kColumnTiles][2];
};

template <WeightType Type, int kColumnTiles>
__device__ __forceinline__ Operand<kColumnTiles> MakeOperand(const Inputs<kColumnTiles>& x) {
  Operand<kColumnTiles> out = {};
#pragma unroll
  for (int n = 0; n < kColumnTiles; ++n) {
    Split<Type>(x.value[n], out.parts[n]);
    if constexpr (kHasMinimum<Type>) InputSums(x.value[n], out.sums[n]);
  }
  return out;
}

}  // namespace tailor::cuda
