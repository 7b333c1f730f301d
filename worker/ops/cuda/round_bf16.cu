// Inputs and weights as bf16 in memory, for a library that multiplies nothing else: the roundings
// that gemm.cu makes on its way into shared memory.
#include "worker/ops/cuda/device.cuh"
#include "worker/ops/cuda/tensor_core.cuh"

namespace tailor::cuda {
namespace {

constexpr int kThreads = 256;

// Eight values, as one store.
__device__ __forceinline__ void StoreBf16(const float* values, uint16_t* out) {
  *reinterpret_cast<uint4*>(out) = {PackBf16(values[0], values[1]), PackBf16(values[2], values[3]),
                                    PackBf16(values[4], values[5]), PackBf16(values[6], values[7])};
}

__global__ void RoundRowsKernel(Rows<const float> x, uint16_t* out) {
  const auto first = static_cast<int32_t>(blockIdx.x * kThreads + threadIdx.x) * 8;
  const auto row = static_cast<int64_t>(blockIdx.y);
  if (first >= x.cols) return;
  const auto* in = reinterpret_cast<const float4*>(x.data + row * x.stride + first);
  const float4 low = __ldg(in), high = __ldg(in + 1);
  const float values[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
  StoreBf16(values, out + row * x.cols + first);
}

// A thread a piece: rows follow one another without a gap on both sides.
template <WeightType Type>
__global__ void ExpandWeightKernel(const __grid_constant__ WeightRef w, int64_t pieces,
                                   uint16_t* out) {
  constexpr int kValues = Piece<Type>::kValues;
  const int64_t piece = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (piece >= pieces) return;
  float values[kValues];
  Piece<Type>::Load(LoadOnce(static_cast<const uint4*>(w.codes) + piece), w.scales, piece, values);
#pragma unroll
  for (int i = 0; i < kValues; i += 8) StoreBf16(values + i, out + piece * kValues + i);
}

}  // namespace

void LaunchRoundRows(Rows<const float> x, uint16_t* out, CudaStreamRef stream) {
  const dim3 grid((x.cols / 8 + kThreads - 1) / kThreads, x.rows);
  LaunchKernel(RoundRowsKernel, grid, kThreads, 0, stream, x, out);
}

void LaunchExpandWeight(const WeightRef& w, uint16_t* out, CudaStreamRef stream) {
  const int64_t pieces = static_cast<int64_t>(w.rows) * w.pieces;
  const auto blocks = static_cast<unsigned>((pieces + kThreads - 1) / kThreads);
  DispatchWeight(w.type, [&]<WeightType Type>() {
    // A piece of F32 has no whole store; those weights are never rounded.
    if constexpr (Type != WeightType::kF32) {
      LaunchKernel(ExpandWeightKernel<Type>, blocks, kThreads, 0, stream, w, pieces, out);
    }
  });
}

}  // namespace tailor::cuda
