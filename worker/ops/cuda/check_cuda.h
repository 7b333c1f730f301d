// Ends the process on a CUDA error in an op: a device that failed answers nothing any more, and a
// worker may die at any moment.
#pragma once

#include "absl/status/status.h"
#include "common/cuda/handles.h"

namespace tailor::cuda {

// Aborts with the call's name unless `error` is success.
void CheckCuda(cudaError_t error, const char* call);
void CheckCuda(const absl::Status& status);

}  // namespace tailor::cuda
