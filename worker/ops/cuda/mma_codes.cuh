// Weights' bytes as left operands of the tensor cores: how the 16 bytes of a lane become pairs of
// bf16 in which every code is exact. See linear_mma.cu for what a group and a quad is.
#pragma once

#include "worker/ops/cuda/device.cuh"
#include "worker/ops/cuda/tensor_core.cuh"

namespace tailor::cuda {

// Lanes whose bit `mask` is clear keep `low` and get the other's `low` as `high`; the others the
// reverse.
__device__ __forceinline__ void Exchange(uint32_t& low, uint32_t& high, unsigned mask) {
  const bool upper = (threadIdx.x & mask) != 0;
  const uint32_t got = __shfl_xor_sync(kWholeWarp, upper ? low : high, static_cast<int>(mask));
  (upper ? low : high) = got;
}

// kBlocks: blocks of 32 inputs in a group. Share: the quad's lanes exchange words, so that each has
// 4 / kBlocks words of each block. Pairs: those words as four registers of two inputs. A lane's
// eight inputs of a block are four from First and four from kSecondFour further on.
template <WeightType Type>
struct Codes;

template <>
struct Codes<WeightType::kBF16> {
  static constexpr int kBlocks = 1, kSecondFour = 4;
  static constexpr bool kScaled = false, kAdjacent = true;
  static __device__ __forceinline__ int First(int quad) { return 8 * quad; }
  static __device__ __forceinline__ void Share(uint32_t*) {}
  static __device__ __forceinline__ void Pairs(const uint32_t* words, uint32_t* pairs) {
#pragma unroll
    for (int i = 0; i < 4; ++i) pairs[i] = words[i];
  }
};

// In bf16 128 + n is 0x4300 | n for n below 128.
inline constexpr uint32_t k128 = 0x43004300u, kMinus136 = 0xc308c308u, kOne = 0x3f803f80u,
                          kMinusOne = 0xbf80bf80u;

template <>
struct Codes<WeightType::kQ8_0> {
  static constexpr int kBlocks = 2, kSecondFour = 4;
  static constexpr bool kScaled = true, kAdjacent = false;
  static __device__ __forceinline__ int First(int quad) { return 16 * (quad % 2) + 8 * (quad / 2); }
  static __device__ __forceinline__ void Share(uint32_t* words) {
    Exchange(words[0], words[2], 2);
    Exchange(words[1], words[3], 2);
  }
  // A code is its lower seven bits less 128 if its highest is set: (128 + those) - (128 or 256).
  static __device__ __forceinline__ void Pairs(const uint32_t* words, uint32_t* pairs) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t bytes = words[i / 2] >> (8 * (i % 2));
      pairs[i] =
          FmaPairs(AndOr(bytes, 0x00800080u, k128), kMinusOne, AndOr(bytes, 0x007f007fu, k128));
    }
  }
};

template <>
struct Codes<WeightType::kQ4_0> {
  static constexpr int kBlocks = 4, kSecondFour = 16;
  static constexpr bool kScaled = true, kAdjacent = false;
  static __device__ __forceinline__ int First(int quad) { return 4 * quad; }
  static __device__ __forceinline__ void Share(uint32_t* words) {
    Exchange(words[0], words[1], 1);
    Exchange(words[2], words[3], 1);
    Exchange(words[0], words[2], 2);
    Exchange(words[1], words[3], 2);
  }
  static __device__ __forceinline__ void Pairs(const uint32_t* words, uint32_t* pairs) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t nibbles = words[0] >> (8 * (i % 2) + 4 * (i / 2));
      pairs[i] = FmaPairs(AndOr(nibbles, 0x000f000fu, k128), kOne, kMinus136);
    }
  }
};

// Its minimum is that of codes less 8 (see AddScaled in linear_mma.cu).
template <>
struct Codes<WeightType::kQ4_1> : Codes<WeightType::kQ4_0> {};

template <WeightType Type>
inline constexpr bool kHasMinimum = Type == WeightType::kQ4_1;

}  // namespace tailor::cuda
