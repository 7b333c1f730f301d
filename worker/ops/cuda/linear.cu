// Products of few rows (up to kSkinnyRows) by fused multiply-adds, for formats that linear_mma.cu
// does not take: bound by reading the weights for a row or two, by arithmetic for more. A block of
// four warps makes a few outputs of every row, each thread taking every 128th piece of 16 bytes.
// The order of one sum is that of its pieces, whatever the number of rows: a row alone and in a
// batch have the same bits.
#include <cstdlib>
#include <cstring>

#include "worker/ops/cuda/device.cuh"
#include "worker/ops/cuda/linear_jobs.h"

namespace tailor::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;

// Sums of the block for `kOuts` weight rows and `kRows` input rows, in sums[row * kOuts + out] of
// shared memory. row_of(out) is the weight and its row.
template <WeightType Type, int kRows, int kOuts, typename WeightOf>
__device__ __forceinline__ void BlockProducts(const Rows<const float>& x, WeightOf weight_of,
                                              float* sums) {
  constexpr int kValues = Piece<Type>::kValues;
  float acc[kRows][kOuts] = {};
  const int32_t pieces = weight_of(0).w->pieces;
  for (int32_t p = threadIdx.x; p < pieces; p += kThreads) {
    uint4 raw[kOuts];
#pragma unroll
    for (int o = 0; o < kOuts; ++o) {
      const auto place = weight_of(o);
      raw[o] = LoadOnce(static_cast<const uint4*>(place.w->codes) +
                        (static_cast<int64_t>(place.row) * pieces + p));
    }
    float w[kOuts][kValues];
#pragma unroll
    for (int o = 0; o < kOuts; ++o) {
      const auto place = weight_of(o);
      Piece<Type>::Load(raw[o], place.w->scales, static_cast<int64_t>(place.row) * pieces + p,
                        w[o]);
    }
    const float* in = x.data + static_cast<int64_t>(p) * kValues;
#pragma unroll
    for (int i = 0; i < kValues / 4; ++i) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float4 v =
            __ldg(reinterpret_cast<const float4*>(in + min(r, x.rows - 1) * x.stride + 4 * i));
#pragma unroll
        for (int o = 0; o < kOuts; ++o) {
          acc[r][o] = fmaf(v.x, w[o][4 * i], acc[r][o]);
          acc[r][o] = fmaf(v.y, w[o][4 * i + 1], acc[r][o]);
          acc[r][o] = fmaf(v.z, w[o][4 * i + 2], acc[r][o]);
          acc[r][o] = fmaf(v.w, w[o][4 * i + 3], acc[r][o]);
        }
      }
    }
  }
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int o = 0; o < kOuts; ++o) {
      const float sum = WarpSum(acc[r][o]);
      if (lane == 0) sums[warp * kRows * kOuts + r * kOuts + o] = sum;
    }
  }
  __syncthreads();
}

// Blocks a multiprocessor must hold: what the registers of one allow.
constexpr int BlocksFor(int rows) { return rows <= 4 ? 4 : 2; }

struct WeightRow {
  const WeightRef* w;
  int32_t row;
};

template <WeightType Type, int kRows, int kOuts>
__global__ void __launch_bounds__(kThreads, BlocksFor(kRows))
    LinearKernel(Rows<const float> x, const __grid_constant__ JobTable jobs, Epilogue epilogue) {
  __shared__ float sums[kWarps * kRows * kOuts];
  const int32_t j = jobs.JobOf(static_cast<int32_t>(blockIdx.x));
  const LinearJob& job = jobs.job[j];
  const int32_t first = (static_cast<int32_t>(blockIdx.x) - jobs.first_block[j]) * kOuts;
  BlockProducts<Type, kRows, kOuts>(
      x,
      [&](int o) {
        return WeightRow{&job.w, min(first + o, job.w.rows - 1)};
      },
      sums);
  const int index = threadIdx.x;
  if (index >= kRows * kOuts) return;
  const int32_t row = index / kOuts, out = first + index % kOuts;
  if (row >= x.rows || out >= job.w.rows) return;
  const float sum = AddWarps<kWarps, kRows * kOuts>(sums, index);
  float* target = job.out.data + row * job.out.stride + out;
  *target = epilogue == Epilogue::kAdd ? *target + sum : sum;
}

template <WeightType Type, int kRows>
__global__ void __launch_bounds__(kThreads, BlocksFor(kRows))
    GatedKernel(Rows<const float> x, const __grid_constant__ WeightRef gate,
                const __grid_constant__ WeightRef up, Rows<float> out) {
  __shared__ float sums[kWarps * kRows * 2];
  const auto column = static_cast<int32_t>(blockIdx.x);
  BlockProducts<Type, kRows, 2>(
      x,
      [&](int o) {
        return WeightRow{o == 0 ? &gate : &up, column};
      },
      sums);
  const int32_t row = threadIdx.x;
  if (row >= x.rows || row >= kRows) return;
  const float a = AddWarps<kWarps, kRows * 2>(sums, 2 * row), u = AddWarps<kWarps, kRows * 2>(sums, 2 * row + 1);
  out.data[row * out.stride + column] = Silu(a) * u;
}

__global__ void PackRowsKernel(Rows<const float> x, Rows<float> out) {
  const int32_t c = static_cast<int32_t>(blockIdx.x * blockDim.x + threadIdx.x);
  const auto row = static_cast<int32_t>(blockIdx.y);
  if (c >= out.cols) return;
  out.data[row * out.stride + c] = c < x.cols ? x.data[row * x.stride + c] : 0.0f;
}

// Four outputs a block while their sums fit in few registers, two beyond.
template <WeightType Type>
constexpr int OutsFor(int rows) {
  return rows <= 2 && Piece<Type>::kValues < 32 ? 4 : 2;
}

template <typename T>
Rows<T> Part(const Rows<T>& x, int32_t first, int32_t count) {
  return {x.data + first * x.stride, x.stride, count, x.cols};
}

template <WeightType Type, int kRows>
void LaunchRows(Rows<const float> x, int32_t first_row, const LinearJob* jobs, int32_t count,
                Epilogue epilogue, CudaStreamRef stream) {
  constexpr int kOuts = OutsFor<Type>(kRows);
  const JobTable table = MakeJobTable(jobs, count, kOuts, first_row, x.rows);
  LaunchKernel(LinearKernel<Type, kRows, kOuts>, table.blocks(), kThreads, 0, stream, x, table,
               epilogue);
}

// Rows of one launch: block formats of 16 rows need more registers than there are, so those rows
// come in two launches.
constexpr int32_t RowsAtOnce(WeightType type) {
  return type == WeightType::kF32 || type == WeightType::kF16 || type == WeightType::kBF16 ? 16 : 8;
}

// f.template operator()<kRows>(first, count) for each launch: the least instance that holds its
// rows.
template <WeightType Type, typename F>
void DispatchRows(int32_t rows, F f) {
  for (int32_t first = 0; first < rows; first += RowsAtOnce(Type)) {
    const int32_t count = rows - first < RowsAtOnce(Type) ? rows - first : RowsAtOnce(Type);
    if (count <= 1) {
      f.template operator()<1>(first, count);
    } else if (count <= 2) {
      f.template operator()<2>(first, count);
    } else if (count <= 4) {
      f.template operator()<4>(first, count);
    } else if (count <= 8) {
      f.template operator()<8>(first, count);
    } else if constexpr (RowsAtOnce(Type) == 16) {
      f.template operator()<16>(first, count);
    }
  }
}

// TAILOR_CUDA_PRODUCTS=fma: every format here, to compare the two on a device.
bool OnTensorCores(WeightType type) {
  static const bool fma_only = [] {
    const char* wanted = std::getenv("TAILOR_CUDA_PRODUCTS");
    return wanted != nullptr && std::strcmp(wanted, "fma") == 0;
  }();
  return !fma_only && (type == WeightType::kBF16 || type == WeightType::kQ8_0 ||
                       type == WeightType::kQ4_0 || type == WeightType::kQ4_1);
}

}  // namespace

void LaunchLinear(Rows<const float> x, const LinearJob* jobs, int32_t count, Epilogue epilogue,
                  CudaStreamRef stream) {
  if (OnTensorCores(jobs[0].w.type)) return LaunchLinearMma(x, jobs, count, epilogue, stream);
  DispatchWeight(jobs[0].w.type, [&]<WeightType Type>() {
    DispatchRows<Type>(x.rows, [&]<int kRows>(int32_t first, int32_t rows) {
      LaunchRows<Type, kRows>(Part(x, first, rows), first, jobs, count, epilogue, stream);
    });
  });
}

void LaunchGated(Rows<const float> x, const WeightRef& gate, const WeightRef& up, Rows<float> out,
                 CudaStreamRef stream) {
  if (OnTensorCores(gate.type)) return LaunchGatedMma(x, gate, up, out, stream);
  DispatchWeight(gate.type, [&]<WeightType Type>() {
    DispatchRows<Type>(x.rows, [&]<int kRows>(int32_t first, int32_t rows) {
      LaunchKernel(GatedKernel<Type, kRows>, gate.rows, kThreads, 0, stream, Part(x, first, rows),
                   gate, up, Part(out, first, rows));
    });
  });
}

void LaunchPackRows(Rows<const float> x, Rows<float> out, CudaStreamRef stream) {
  const dim3 grid((out.cols + 255) / 256, x.rows);
  LaunchKernel(PackRowsKernel, grid, 256, 0, stream, x, out);
}

}  // namespace tailor::cuda
