// Embedding rows, RMS norm, biases, rotary positions, SwiGlu's product, and writing rows of K and
// V.
#include "worker/ops/cuda/device.cuh"

namespace tailor::cuda {
namespace {

constexpr int kNormThreads = 256;

// One piece of one weight row, as floats.
template <WeightType Type>
__device__ __forceinline__ void LoadPiece(const WeightRef& w, int64_t row, int32_t piece,
                                          float* values) {
  const int64_t index = row * w.pieces + piece;
  Piece<Type>::Load(static_cast<const uint4*>(w.codes)[index], w.scales, index, values);
}

template <WeightType Type>
__global__ void EmbedKernel(const int32_t* tokens, const __grid_constant__ WeightRef embedding,
                            Rows<float> x) {
  constexpr int kValues = Piece<Type>::kValues;
  const int32_t token = tokens[blockIdx.x];
  float* out = x.data + static_cast<int64_t>(blockIdx.x) * x.stride;
  for (int32_t p = threadIdx.x; p < embedding.pieces; p += blockDim.x) {
    float values[kValues];
    LoadPiece<Type>(embedding, token, p, values);
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      if (p * kValues + i < x.cols) out[p * kValues + i] = values[i];
    }
  }
}

// A block a row; each thread sums every 256th square, then the warps' sums are added in order. In
// double, as on the CPU: squares of large values leave the range of float.
template <WeightType Type>
__global__ void __launch_bounds__(kNormThreads)
    RmsNormKernel(Rows<const float> x, const __grid_constant__ WeightRef gain, float eps,
                  Rows<float> out) {
  __shared__ double warp_sums[kNormThreads / 32];
  const float* in = x.data + static_cast<int64_t>(blockIdx.x) * x.stride;
  float* to = out.data + static_cast<int64_t>(blockIdx.x) * out.stride;
  double sum = 0.0;
  for (int32_t c = threadIdx.x; c < x.cols; c += kNormThreads) {
    sum += static_cast<double>(in[c]) * in[c];
  }
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) sum += __shfl_xor_sync(kWholeWarp, sum, mask);
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = sum;
  __syncthreads();
  double total = 0.0;
#pragma unroll
  for (int w = 0; w < kNormThreads / 32; ++w) total += warp_sums[w];
  const auto scale = static_cast<float>(1.0 / sqrt(total / x.cols + eps));
  constexpr int kValues = Piece<Type>::kValues;
  for (int32_t p = threadIdx.x; p < gain.pieces; p += kNormThreads) {
    float values[kValues];
    LoadPiece<Type>(gain, 0, p, values);
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      const int32_t c = p * kValues + i;
      if (c < x.cols) to[c] = in[c] * scale * values[i];
    }
  }
}

template <WeightType Type>
__global__ void AddBiasKernel(const __grid_constant__ WeightRef bias, Rows<float> x) {
  constexpr int kValues = Piece<Type>::kValues;
  float* out = x.data + static_cast<int64_t>(blockIdx.x) * x.stride;
  for (int32_t p = threadIdx.x; p < bias.pieces; p += blockDim.x) {
    float values[kValues];
    LoadPiece<Type>(bias, 0, p, values);
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      if (p * kValues + i < x.cols) out[p * kValues + i] += values[i];
    }
  }
}

__global__ void SiluMultiplyKernel(Rows<const float> gate, Rows<float> out) {
  const auto c = static_cast<int32_t>(blockIdx.x * blockDim.x + threadIdx.x);
  if (c >= out.cols) return;
  const float a = gate.data[blockIdx.y * gate.stride + c];
  float* target = out.data + blockIdx.y * out.stride + c;
  *target = a / (1.0f + expf(-a)) * *target;
}

// Each rounding in its place: the same bits from every kernel that rotates.
__device__ __forceinline__ void Rotate(const float* cos_sin, float& a, float& b) {
  const float c = cos_sin[0], s = cos_sin[1], old_a = a, old_b = b;
  a = fmaf(old_a, c, -MulRounded(old_b, s));
  b = fmaf(old_a, s, MulRounded(old_b, c));
}

__global__ void RopeKernel(const int32_t* positions, RopeRef table, Rows<float> x) {
  const int32_t pairs = table.head_dim / 2;
  const auto pair = static_cast<int32_t>(blockIdx.x * blockDim.x + threadIdx.x);
  if (pair >= x.cols / 2) return;
  const int32_t head = pair / pairs, i = pair % pairs;
  const float* cos_sin =
      table.cos_sin + (static_cast<int64_t>(positions[blockIdx.y]) * pairs + i) * 2;
  float* slice = x.data + blockIdx.y * x.stride + static_cast<int64_t>(head) * table.head_dim;
  Rotate(cos_sin, slice[table.halves ? i : 2 * i], slice[table.halves ? i + pairs : 2 * i + 1]);
}

__device__ __forceinline__ uint32_t Bf16Word(float low, float high) {
  return static_cast<uint32_t>(ToBf16Bits(low)) | static_cast<uint32_t>(ToBf16Bits(high)) << 16;
}

// A warp a row [2][head_dim]: two values a store, so that mapped memory sees whole lines.
__global__ void WriteRowsKernel(Rows<const float> k, Rows<const float> v, uint16_t* const* rows,
                                int32_t head_dim, int32_t kv_heads, int32_t count) {
  const auto row = static_cast<int32_t>(blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32);
  if (row >= count) return;
  const int32_t token = row / kv_heads, head = row % kv_heads;
  const float* key = k.data + token * k.stride + static_cast<int64_t>(head) * head_dim;
  const float* value = v.data + token * v.stride + static_cast<int64_t>(head) * head_dim;
  auto* out = reinterpret_cast<uint32_t*>(rows[row]);
  for (int32_t pair = threadIdx.x % 32; pair < head_dim; pair += 32) {
    const float* from = pair < head_dim / 2 ? key + 2 * pair : value + 2 * pair - head_dim;
    out[pair] = Bf16Word(from[0], from[1]);
  }
}

// What one warp does with a head's slice: rotates it in place and writes it to `count` rows as
// their keys. A lane has two pairs at a time, whose four values are whole words of the row.
__device__ __forceinline__ void RotateSlice(const float* cos_sin, const RopeRef& table,
                                            float* slice, uint32_t* const* rows, int count) {
  const int32_t pairs = table.head_dim / 2;
  for (int32_t i = threadIdx.x % 32 * 2; i < pairs; i += 64) {
    const int32_t a = table.halves ? i : 2 * i, b = table.halves ? i + pairs : 2 * i + 1;
    const int32_t step = table.halves ? 1 : 2;
    float values[2][2] = {{slice[a], slice[b]}, {slice[a + step], slice[b + step]}};
    Rotate(cos_sin + 2 * i, values[0][0], values[0][1]);
    Rotate(cos_sin + 2 * i + 2, values[1][0], values[1][1]);
    slice[a] = values[0][0];
    slice[b] = values[0][1];
    slice[a + step] = values[1][0];
    slice[b + step] = values[1][1];
    for (int r = 0; r < count; ++r) {
      rows[r][a / 2] = table.halves ? Bf16Word(values[0][0], values[1][0])
                                    : Bf16Word(values[0][0], values[0][1]);
      rows[r][(table.halves ? b : b + 1) / 2] = table.halves ? Bf16Word(values[0][1], values[1][1])
                                                             : Bf16Word(values[1][0], values[1][1]);
    }
  }
}

// A warp a head of q or k of one token; those of k write both of their rows.
__global__ void RopeRowsKernel(const int32_t* positions, const __grid_constant__ RopeRef table,
                               Rows<float> q, Rows<float> k, Rows<const float> v,
                               uint16_t* const* rows, uint16_t* const* more_rows) {
  const int32_t d = table.head_dim, q_heads = q.cols / d, kv_heads = k.cols / d;
  const auto warp = static_cast<int32_t>(blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32);
  const auto token = static_cast<int32_t>(blockIdx.y);
  if (warp >= q_heads + kv_heads) return;
  const float* cos_sin = table.cos_sin + static_cast<int64_t>(positions[token]) * d;
  if (warp < q_heads) {
    RotateSlice(cos_sin, table, q.data + token * q.stride + static_cast<int64_t>(warp) * d, nullptr,
                0);
    return;
  }
  const int32_t head = warp - q_heads, row = token * kv_heads + head;
  uint32_t* const out[2] = {reinterpret_cast<uint32_t*>(rows[row]),
                            reinterpret_cast<uint32_t*>(more_rows[row])};
  RotateSlice(cos_sin, table, k.data + token * k.stride + static_cast<int64_t>(head) * d, out, 2);
  const float* value = v.data + token * v.stride + static_cast<int64_t>(head) * d;
  for (int32_t pair = threadIdx.x % 32; pair < d / 2; pair += 32) {
    const uint32_t word = Bf16Word(value[2 * pair], value[2 * pair + 1]);
    out[0][d / 2 + pair] = word;
    out[1][d / 2 + pair] = word;
  }
}

}  // namespace

void LaunchEmbed(const int32_t* tokens, const WeightRef& embedding, Rows<float> x,
                 CudaStreamRef stream) {
  DispatchWeight(embedding.type, [&]<WeightType Type>() {
    LaunchKernel(EmbedKernel<Type>, x.rows, 128, 0, stream, tokens, embedding, x);
  });
}

void LaunchRmsNorm(Rows<const float> x, const WeightRef& gain, float eps, Rows<float> out,
                   CudaStreamRef stream) {
  DispatchWeight(gain.type, [&]<WeightType Type>() {
    LaunchKernel(RmsNormKernel<Type>, x.rows, kNormThreads, 0, stream, x, gain, eps, out);
  });
}

void LaunchAddBias(const WeightRef& bias, Rows<float> x, CudaStreamRef stream) {
  DispatchWeight(bias.type, [&]<WeightType Type>() {
    LaunchKernel(AddBiasKernel<Type>, x.rows, 128, 0, stream, bias, x);
  });
}

void LaunchSiluMultiply(Rows<const float> gate, Rows<float> out, CudaStreamRef stream) {
  const dim3 grid((out.cols + 255) / 256, out.rows);
  LaunchKernel(SiluMultiplyKernel, grid, 256, 0, stream, gate, out);
}

void LaunchRope(const int32_t* positions, const RopeRef& table, Rows<float> x,
                CudaStreamRef stream) {
  const dim3 grid((x.cols / 2 + 127) / 128, x.rows);
  LaunchKernel(RopeKernel, grid, 128, 0, stream, positions, table, x);
}

void LaunchWriteRows(Rows<const float> k, Rows<const float> v, uint16_t* const* rows,
                     int32_t head_dim, CudaStreamRef stream) {
  const int32_t kv_heads = k.cols / head_dim, count = k.rows * kv_heads;
  LaunchKernel(WriteRowsKernel, (count + 3) / 4, 128, 0, stream, k, v, rows, head_dim, kv_heads,
               count);
}

void LaunchRopeRows(const int32_t* positions, const RopeRef& table, Rows<float> q, Rows<float> k,
                    Rows<const float> v, uint16_t* const* rows, uint16_t* const* more_rows,
                    CudaStreamRef stream) {
  const dim3 grid(((q.cols + k.cols) / table.head_dim + 3) / 4, q.rows);
  LaunchKernel(RopeRowsKernel, grid, 128, 0, stream, positions, table, q, k, v, rows, more_rows);
}

}  // namespace tailor::cuda
