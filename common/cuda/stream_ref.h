// A CUDA stream that someone else owns: what ops take.
#pragma once

#include <cuda_runtime_api.h>

namespace tailor {

struct CudaStreamRef {
  cudaStream_t handle = nullptr;
};

}  // namespace tailor
