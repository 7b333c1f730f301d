// CUDA's handles as owners, its errors as Status. Every owner is made by a factory and closes by
// itself; a failing close is dropped, since it reports what an earlier asynchronous call did.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "common/unique_handle.h"

namespace tailor {

// Ok, or "<call>: <CUDA's text> (error N)": ResourceExhausted for memory, Unavailable where there
// is no usable device or driver, Internal otherwise.
absl::Status CudaStatus(cudaError_t error, const char* call);

struct CudaStreamTraits {
  using Raw = cudaStream_t;
  static constexpr Raw kNull = nullptr;
  static void Close(Raw raw) { (void)cudaStreamDestroy(raw); }
};
struct CudaEventTraits {
  using Raw = cudaEvent_t;
  static constexpr Raw kNull = nullptr;
  static void Close(Raw raw) { (void)cudaEventDestroy(raw); }
};
struct CudaGraphTraits {
  using Raw = cudaGraph_t;
  static constexpr Raw kNull = nullptr;
  static void Close(Raw raw) { (void)cudaGraphDestroy(raw); }
};
struct CudaGraphExecTraits {
  using Raw = cudaGraphExec_t;
  static constexpr Raw kNull = nullptr;
  static void Close(Raw raw) { (void)cudaGraphExecDestroy(raw); }
};
struct CudaMemoryTraits {
  using Raw = void*;
  static constexpr Raw kNull = nullptr;
  static void Close(Raw raw) { (void)cudaFree(raw); }
};
struct CudaPinnedTraits {
  using Raw = void*;
  static constexpr Raw kNull = nullptr;
  static void Close(Raw raw) { (void)cudaFreeHost(raw); }
};

using CudaStream = UniqueHandle<CudaStreamTraits>;
using CudaEvent = UniqueHandle<CudaEventTraits>;
using CudaGraph = UniqueHandle<CudaGraphTraits>;
using CudaGraphExec = UniqueHandle<CudaGraphExecTraits>;  // instantiated, ready to launch
using CudaMemory = UniqueHandle<CudaMemoryTraits>;        // of the device
using CudaPinned = UniqueHandle<CudaPinnedTraits>;        // page-locked memory of the host

absl::StatusOr<CudaStream> MakeCudaStream();  // ordered with no other stream
absl::StatusOr<CudaEvent> MakeCudaEvent();    // without timing
absl::StatusOr<CudaMemory> MakeCudaMemory(int64_t bytes);
absl::StatusOr<CudaPinned> MakeCudaPinned(int64_t bytes);
absl::StatusOr<CudaGraph> MakeCudaGraph();  // without a node
absl::StatusOr<CudaGraphExec> InstantiateCudaGraph(cudaGraph_t graph);

}  // namespace tailor
