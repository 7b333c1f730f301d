#include "common/cuda/handles.h"

#include "common/status.h"

namespace tailor {
namespace {

absl::StatusCode CodeOf(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation:
      return absl::StatusCode::kResourceExhausted;
    case cudaErrorInsufficientDriver:
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice:
    case cudaErrorInitializationError:
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorUnsupportedPtxVersion:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorSystemNotReady:
      return absl::StatusCode::kUnavailable;
    default:
      return absl::StatusCode::kInternal;
  }
}

}  // namespace

absl::Status CudaStatus(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::Status(CodeOf(error), absl::StrCat(call, ": ", cudaGetErrorString(error), " (error ",
                                                  static_cast<int>(error), ")"));
}

absl::StatusOr<CudaStream> MakeCudaStream() {
  cudaStream_t raw = nullptr;
  TS_RETURN_IF_ERROR(CudaStatus(cudaStreamCreateWithFlags(&raw, cudaStreamNonBlocking),
                                "cudaStreamCreateWithFlags"));
  return CudaStream(raw);
}

absl::StatusOr<CudaEvent> MakeCudaEvent() {
  cudaEvent_t raw = nullptr;
  TS_RETURN_IF_ERROR(CudaStatus(cudaEventCreateWithFlags(&raw, cudaEventDisableTiming),
                                "cudaEventCreateWithFlags"));
  return CudaEvent(raw);
}

absl::StatusOr<CudaMemory> MakeCudaMemory(int64_t bytes) {
  void* raw = nullptr;
  TS_RETURN_IF_ERROR(CudaStatus(cudaMalloc(&raw, static_cast<size_t>(bytes)), "cudaMalloc"));
  return CudaMemory(raw);
}

absl::StatusOr<CudaPinned> MakeCudaPinned(int64_t bytes) {
  void* raw = nullptr;
  TS_RETURN_IF_ERROR(
      CudaStatus(cudaMallocHost(&raw, static_cast<size_t>(bytes)), "cudaMallocHost"));
  return CudaPinned(raw);
}

absl::StatusOr<CudaGraph> MakeCudaGraph() {
  cudaGraph_t raw = nullptr;
  TS_RETURN_IF_ERROR(CudaStatus(cudaGraphCreate(&raw, 0), "cudaGraphCreate"));
  return CudaGraph(raw);
}

absl::StatusOr<CudaGraphExec> InstantiateCudaGraph(cudaGraph_t graph) {
  cudaGraphExec_t raw = nullptr;
  TS_RETURN_IF_ERROR(CudaStatus(cudaGraphInstantiate(&raw, graph, 0), "cudaGraphInstantiate"));
  return CudaGraphExec(raw);
}

}  // namespace tailor
