// The device's side of the doorbell (worker/ops/doorbell.h): a query into memory of the host, and the
// word that says so.
#include "worker/ops/cuda/device.cuh"

namespace tailor::cuda {
namespace {

constexpr int kRingThreads = 256;

// One block: its barrier puts every thread's part of the query before the word.
__global__ void __launch_bounds__(kRingThreads)
    RingKernel(const float* q, int32_t count, float* query, volatile uint64_t* rung,
               uint64_t number) {
  for (int32_t i = threadIdx.x; i < count; i += kRingThreads) query[i] = q[i];
  __syncthreads();
  if (threadIdx.x != 0) return;
  // Cumulative at system scope: what the barrier put before it is seen by whoever sees the word.
  __threadfence_system();
  *rung = number;
}

// Where the stream itself can't wait: a warp, of which one lane looks.
__global__ void AwaitKernel(const volatile uint64_t* answered, uint64_t number) {
  if (threadIdx.x != 0) return;
  while (*answered < number) __nanosleep(200);
  __threadfence_system();
}

}  // namespace

void LaunchRing(const float* q, int32_t count, float* query, uint64_t* rung, uint64_t number,
                CudaStreamRef stream) {
  LaunchKernel(RingKernel, 1, kRingThreads, 0, stream, q, count, query, rung, number);
}

void LaunchAwait(const uint64_t* answered, uint64_t number, CudaStreamRef stream) {
  LaunchKernel(AwaitKernel, 1, 32, 0, stream, answered, number);
}

}  // namespace tailor::cuda
