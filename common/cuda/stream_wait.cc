#include "common/cuda/stream_wait.h"

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "common/cuda/handles.h"
#include "common/status.h"

namespace tailor {
namespace {

using WaitValueFn = CUresult (*)(CUstream, CUdeviceptr, cuuint64_t, unsigned int);
constexpr unsigned int kSinceVersion = 11070;  // whose form of the call takes no capability flags

}  // namespace

absl::StatusOr<CudaStreamWait> CudaStreamWait::Find(int device) {
  int can = 0;
  // The runtime has no name for it; its numbers are the driver's.
  constexpr auto kCanWait =
      static_cast<cudaDeviceAttr>(CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS);
  TS_RETURN_IF_ERROR(
      CudaStatus(cudaDeviceGetAttribute(&can, kCanWait, device), "cudaDeviceGetAttribute"));
  if (can == 0)
    return absl::UnavailableError("the device knows no 64-bit stream memory operations");
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  TS_RETURN_IF_ERROR(
      CudaStatus(cudaGetDriverEntryPointByVersion("cuStreamWaitValue64", &entry, kSinceVersion,
                                                  cudaEnableDefault, &found),
                 "cudaGetDriverEntryPointByVersion"));
  if (found != cudaDriverEntryPointSuccess || entry == nullptr) {
    return absl::UnavailableError("the driver has no cuStreamWaitValue64");
  }
  return CudaStreamWait(entry);
}

absl::Status CudaStreamWait::Enqueue(const uint64_t* word, uint64_t value,
                                     CudaStreamRef stream) const {
  const CUresult result = reinterpret_cast<WaitValueFn>(entry_)(
      stream.Direct(), reinterpret_cast<CUdeviceptr>(word), value, CU_STREAM_WAIT_VALUE_GEQ);
  if (result == CUDA_SUCCESS) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("cuStreamWaitValue64: driver error ", static_cast<int>(result)));
}

}  // namespace tailor
