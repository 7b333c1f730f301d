// The CUDA runtime calls of our backend that are no stream's (fake_stream.cc) and no graph's
// (fake_graph.cc), over the host's memory.
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "tests/gpu/emulator/fake_stream.h"

namespace {

// TAILOR_EMULATED_STREAM_WAIT=no: a device whose streams know no memory operations.
bool StreamsCanWait() {
  const char* can = std::getenv("TAILOR_EMULATED_STREAM_WAIT");
  return can == nullptr || std::strcmp(can, "no") != 0;
}

CUresult StreamWaitValue64(CUstream stream, CUdeviceptr address, cuuint64_t value, unsigned flags) {
  if (flags != CU_STREAM_WAIT_VALUE_GEQ) return CUDA_ERROR_INVALID_VALUE;
  const auto* word = reinterpret_cast<const std::atomic<uint64_t>*>(address);
  emulator::Enqueue(stream, [word, value] {
    while (static_cast<int64_t>(word->load(std::memory_order_acquire) - value) < 0) {
      std::this_thread::yield();
    }
  });
  return CUDA_SUCCESS;
}

}  // namespace

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
const char* cudaGetErrorString(cudaError_t) { return "an emulated device has no errors"; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  // 16 multiprocessors: enough splits to merge, and few enough blocks to emulate.
  const int number = attribute;  // the driver's attributes have the same numbers
  *value = number == cudaDevAttrComputeCapabilityMajor                   ? 9
           : number == cudaDevAttrMultiProcessorCount                    ? 16
           : number == CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS ? StreamsCanWait()
                                                                         : 0;
  return cudaSuccess;
}
cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** entry, unsigned,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult* found) {
  const bool known = std::strcmp(symbol, "cuStreamWaitValue64") == 0;
  *entry = known ? reinterpret_cast<void*>(&StreamWaitValue64) : nullptr;
  *found = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  *free_bytes = *total_bytes = size_t{4} << 30;
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** data, size_t bytes) {
  const size_t whole = (bytes + 255) / 256 * 256;
  *data = std::aligned_alloc(256, whole);
  if (*data == nullptr) return cudaErrorMemoryAllocation;
  return emulator::AddMemory(*data, whole), cudaSuccess;
}
cudaError_t cudaFree(void* data) {
  emulator::RemoveMemory(data);
  return std::free(data), cudaSuccess;
}
cudaError_t cudaMallocHost(void** data, size_t bytes) { return cudaMalloc(data, bytes); }
cudaError_t cudaFreeHost(void* data) { return cudaFree(data); }
cudaError_t cudaHostRegister(void* data, size_t bytes, unsigned) {
  return emulator::AddMemory(data, bytes), cudaSuccess;
}
cudaError_t cudaHostUnregister(void* data) { return emulator::RemoveMemory(data), cudaSuccess; }
cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned) {
  return *device = host, cudaSuccess;
}

}  // extern "C"
