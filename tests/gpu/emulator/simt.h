// Kernels as ordinary C++: a block's threads are fibers of one host thread that run until they meet
// at a barrier or exchange values within their warp. It shows what a kernel computes, and an exchange
// that only a part of a warp reaches. Warps run one after the other, in reverse every other launch,
// each as far as the next barrier: so many a missing barrier shows. It knows nothing of speed, of
// memory ordering between blocks, or of alignment.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "common/cuda/kernel_launch.h"

#undef __shared__
#define __shared__ static  // one block at a time
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __grid_constant__
#define __grid_constant__
#define blockIdx (::emulator::State().block)
#define gridDim (::emulator::State().grid)
#define threadIdx (::emulator::State().thread)
#define blockDim (::emulator::State().threads)

namespace emulator {

struct Position {
  dim3 grid, threads, block, thread;
};
Position& State();

void Launch(dim3 grid, dim3 threads, size_t shared_bytes, cudaStream_t,
            const std::function<void()>& kernel);
// What the runtime finds behind a kernel's host function.
struct Kernel {
  std::vector<size_t> parameter_bytes;
  void (*invoke)(const void* kernel, void** arguments);
};
void AddKernel(const void* kernel, Kernel known);
const Kernel* FindKernel(const void* kernel);  // null: nobody launched it by LaunchKernel yet

// tailor::LaunchKernel, as the rewritten sources call it: makes the kernel known first.
template <typename... Params, typename... Args>
void LaunchKernel(void (*kernel)(Params...), dim3 grid, dim3 threads, size_t shared_bytes,
                  tailor::CudaStreamRef stream, const Args&... args) {
  const auto invoke = [](const void* function, void** arguments) {
    [&]<size_t... kIndex>(std::index_sequence<kIndex...>) {
      reinterpret_cast<void (*)(Params...)>(const_cast<void*>(function))(
          *static_cast<Params*>(arguments[kIndex])...);
    }
    (std::index_sequence_for<Params...>());
  };
  AddKernel(reinterpret_cast<const void*>(kernel), {{sizeof(Params)...}, invoke});
  tailor::LaunchKernel(kernel, grid, threads, shared_bytes, stream, args...);
}
void* DynamicShared();
void SyncBlock();
// Gives `value` (at most 32 bytes) to the warp; returns the values of its 32 lanes, valid until
// this lane's next exchange but one.
struct Exchanged {
  std::byte bytes[32];
};
const Exchanged* Exchange(const void* value, size_t bytes);
int Lane();
// Copies that take place when they are waited for.
void DeferCopy(void* to, const void* from, int bytes);
void RunCopies();

template <typename T>
T ValueOf(const Exchanged* lanes, int lane) {
  T value;
  std::memcpy(&value, lanes[lane].bytes, sizeof(value));
  return value;
}

}  // namespace emulator

inline void __syncthreads() { emulator::SyncBlock(); }
inline void __syncwarp() {
  const char nothing = 0;
  emulator::Exchange(&nothing, sizeof(nothing));
}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return emulator::ValueOf<T>(emulator::Exchange(&value, sizeof(value)), emulator::Lane() ^ mask);
}
template <typename T>
T __shfl_sync(unsigned, T value, int lane) {
  return emulator::ValueOf<T>(emulator::Exchange(&value, sizeof(value)), lane);
}
inline unsigned __ballot_sync(unsigned, bool flag) {
  const emulator::Exchanged* lanes = emulator::Exchange(&flag, sizeof(flag));
  unsigned votes = 0;
  for (int lane = 0; lane < 32; ++lane)
    votes |= unsigned{emulator::ValueOf<bool>(lanes, lane)} << lane;
  return votes;
}
inline void __threadfence_system() { std::atomic_thread_fence(std::memory_order_seq_cst); }
// Lets the thread run that this one waits for: another of the host, never one of the kernel.
inline void __nanosleep(unsigned) { std::this_thread::yield(); }
template <typename T>
T __ldg(const T* address) {
  return *address;
}
template <typename T>
T __ldcs(const T* address) {
  return *address;
}
inline unsigned atomicAdd(unsigned* address, unsigned value) {
  const unsigned before = *address;
  *address += value;
  return before;
}
inline unsigned atomicMax(unsigned* address, unsigned value) {
  const unsigned before = *address;
  *address = before < value ? value : before;
  return before;
}
// Byte i of the result: byte (selector >> 4 i & 7) of the eight of b and a.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const uint64_t bytes = a | uint64_t{b} << 32;
  unsigned out = 0;
  for (int i = 0; i < 4; ++i) {
    out |= static_cast<unsigned>(bytes >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
  }
  return out;
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline float __uint_as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
