// Copies of many pieces in one launch, between device memory and the host's mapped memory. A block
// takes tiles of 16 KiB, each of one piece, with four loads of a thread in flight: over PCIe a load
// takes microseconds, so bytes in flight are the speed.
#include "worker/ops/cuda/device.cuh"

namespace tailor::cuda {
namespace {

constexpr int kThreads = 256, kInFlight = 4;
static_assert(kThreads * kInFlight * 16 == kCopyTileBytes);

// The piece that holds `tile`: the last that begins at or before it.
__device__ __forceinline__ int32_t PieceOf(const CopyRef* pieces, int32_t count, int32_t tile) {
  int32_t first = 0, end = count;
  while (end - first > 1) {
    const int32_t middle = (first + end) / 2;
    if (pieces[middle].first_tile <= tile) {
      first = middle;
    } else {
      end = middle;
    }
  }
  return first;
}

__global__ void __launch_bounds__(kThreads)
    CopyKernel(const CopyRef* pieces, int32_t count, int32_t tiles) {
  for (auto tile = static_cast<int32_t>(blockIdx.x); tile < tiles;
       tile += static_cast<int32_t>(gridDim.x)) {
    const CopyRef piece = pieces[PieceOf(pieces, count, tile)];
    const int64_t first =
        static_cast<int64_t>(tile - piece.first_tile) * (kThreads * kInFlight) + threadIdx.x;
    const int64_t units = piece.bytes / 16;
    const auto* from = static_cast<const uint4*>(piece.from);
    auto* to = static_cast<uint4*>(piece.to);
    uint4 held[kInFlight];
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      if (first + i * kThreads < units) held[i] = LoadOnce(from + first + i * kThreads);
    }
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      if (first + i * kThreads < units) to[first + i * kThreads] = held[i];
    }
  }
}

}  // namespace

void LaunchCopy(const CopyRef* pieces, int32_t count, int32_t tiles, int32_t blocks,
                CudaStreamRef stream) {
  LaunchKernel(CopyKernel, blocks, kThreads, 0, stream, pieces, count, tiles);
}

}  // namespace tailor::cuda
