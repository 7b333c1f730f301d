#include "worker/ops/cuda/check_cuda.h"

#include <cstdio>
#include <cstdlib>
#include <string>

namespace tailor::cuda {

void CheckCuda(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "CUDA backend: %s\n", std::string(status.message()).c_str());
  std::abort();
}

void CheckCuda(cudaError_t error, const char* call) {
  if (error != cudaSuccess) CheckCuda(CudaStatus(error, call));
}

}  // namespace tailor::cuda
