// Products of many rows on tensor cores: tiles of 128 x 128 outputs, 32 inputs a step. Both sides
// are rounded to bf16 on their way into shared memory, so every weight format takes the same path;
// sums are fp32. The next step's values are loaded while this one's are multiplied.
#include "worker/ops/cuda/device.cuh"
#include "worker/ops/cuda/tensor_core.cuh"

namespace tailor::cuda {
namespace {

constexpr int kTile = 128, kStep = 32, kThreads = 256;
constexpr int kPitch = kStep + 8;  // 80 bytes: eight rows of a fragment fall into eight bank groups

// What one thread brings of a step: 16 values of one row of x and of w, as bf16 pairs.
struct Staged {
  uint32_t x[8], w[8];
};

// Thread t holds inputs [16 * (t % 2), + 16) of row t / 2 of the tile.
__device__ __forceinline__ void LoadX(const Rows<const float>& x, int32_t row, int32_t first,
                                      uint32_t* out) {
  const float* in = x.data + static_cast<int64_t>(row) * x.stride + first;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const bool inside = row < x.rows && first + 4 * i < x.cols;
    const float4 v = inside ? __ldg(reinterpret_cast<const float4*>(in) + i) : float4{};
    out[2 * i] = PackBf16(v.x, v.y);
    out[2 * i + 1] = PackBf16(v.z, v.w);
  }
}

template <WeightType Type>
__device__ __forceinline__ void LoadW(const WeightRef& w, int32_t row, int32_t first,
                                      uint32_t* out) {
  constexpr int kValues = Piece<Type>::kValues;
  constexpr int kCopies = kValues >= 16 ? 1 : 16 / kValues;
  float values[kValues >= 16 ? kValues : 16] = {};
#pragma unroll
  for (int i = 0; i < kCopies; ++i) {
    const int32_t piece = first / kValues + i;
    if (row < w.rows && piece < w.pieces) {
      const int64_t index = static_cast<int64_t>(row) * w.pieces + piece;
      Piece<Type>::Load(__ldg(static_cast<const uint4*>(w.codes) + index), w.scales, index,
                        values + i * kValues);
    }
  }
  // A piece of 32 values serves two threads: each keeps its half.
  const bool upper = kValues == 32 && first % 32 != 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float low = upper && kValues == 32 ? values[(2 * i + 16) % (kValues >= 16 ? kValues : 16)]
                                             : values[2 * i];
    const float high = upper && kValues == 32
                           ? values[(2 * i + 17) % (kValues >= 16 ? kValues : 16)]
                           : values[2 * i + 1];
    out[i] = PackBf16(low, high);
  }
}

__device__ __forceinline__ void Store(uint16_t* tile, const uint32_t* pairs) {
  auto* out = reinterpret_cast<uint4*>(tile + (threadIdx.x / 2) * kPitch + (threadIdx.x % 2) * 16);
  out[0] = {pairs[0], pairs[1], pairs[2], pairs[3]};
  out[1] = {pairs[4], pairs[5], pairs[6], pairs[7]};
}

// One warp: 32 rows of x by 64 of w.
__device__ __forceinline__ void MultiplyStep(const uint16_t* x, const uint16_t* w,
                                             float (&acc)[2][8][4]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < kStep; k += 16) {
    uint32_t a[2][4], b[4][4];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      LoadMatrix4(a[m], x + (m * 16 + lane % 16) * kPitch + k + lane / 16 * 8);
    }
#pragma unroll
    for (int n = 0; n < 4; ++n) {  // two fragments of 8 outputs: k 0-7 and 8-15 of each
      LoadMatrix4(b[n], w + (n * 16 + lane / 16 * 8 + lane % 8) * kPitch + k + lane / 8 % 2 * 8);
    }
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int n = 0; n < 8; ++n) Mma(acc[m][n], a[m], b[n / 2] + n % 2 * 2);
    }
  }
}

__device__ __forceinline__ void StorePair(const Rows<float>& out, int32_t row, int32_t col,
                                          float first, float second, Epilogue epilogue) {
  if (row >= out.rows) return;
  float* to = out.data + static_cast<int64_t>(row) * out.stride + col;
  if (col < out.cols) to[0] = epilogue == Epilogue::kAdd ? to[0] + first : first;
  if (col + 1 < out.cols) to[1] = epilogue == Epilogue::kAdd ? to[1] + second : second;
}

template <WeightType Type>
__global__ void __launch_bounds__(kThreads, 2)
    GemmKernel(Rows<const float> x, const __grid_constant__ WeightRef w, Epilogue epilogue,
               Rows<float> out) {
  __shared__ __align__(16) uint16_t x_tile[2][kTile * kPitch], w_tile[2][kTile * kPitch];
  const int32_t x_row = static_cast<int32_t>(blockIdx.y) * kTile,
                w_row = static_cast<int32_t>(blockIdx.x) * kTile;
  const int32_t my_row = threadIdx.x / 2, my_col = threadIdx.x % 2 * 16;
  const int warp = threadIdx.x / 32, warp_m = warp % 4 * 32, warp_n = warp / 4 * 64;
  float acc[2][8][4] = {};
  Staged staged;
  const int32_t steps = (x.cols + kStep - 1) / kStep;
  LoadX(x, x_row + my_row, my_col, staged.x);
  LoadW<Type>(w, w_row + my_row, my_col, staged.w);
  for (int32_t step = 0; step < steps; ++step) {
    const int buffer = step % 2;
    Store(x_tile[buffer], staged.x);
    Store(w_tile[buffer], staged.w);
    __syncthreads();
    if (step + 1 < steps) {
      LoadX(x, x_row + my_row, (step + 1) * kStep + my_col, staged.x);
      LoadW<Type>(w, w_row + my_row, (step + 1) * kStep + my_col, staged.w);
    }
    MultiplyStep(x_tile[buffer] + warp_m * kPitch, w_tile[buffer] + warp_n * kPitch, acc);
  }
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const int32_t row = x_row + warp_m + m * 16 + lane / 4,
                    col = w_row + warp_n + n * 8 + lane % 4 * 2;
      StorePair(out, row, col, acc[m][n][0], acc[m][n][1], epilogue);
      StorePair(out, row + 8, col, acc[m][n][2], acc[m][n][3], epilogue);
    }
  }
}

}  // namespace

void LaunchGemm(Rows<const float> x, const WeightRef& w, Epilogue epilogue, Rows<float> out,
                CudaStreamRef stream) {
  const dim3 grid((w.rows + kTile - 1) / kTile, (x.rows + kTile - 1) / kTile);
  DispatchWeight(w.type, [&]<WeightType Type>() {
    LaunchKernel(GemmKernel<Type>, grid, kThreads, 0, stream, x, w, epilogue, out);
  });
}

}  // namespace tailor::cuda
