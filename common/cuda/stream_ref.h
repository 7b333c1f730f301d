// A CUDA stream that someone else owns: what ops take. Where launches are being recorded, they go
// to the recorder, and whoever wants the stream itself ends that.
#pragma once

#include <cuda_runtime_api.h>

#include "common/cuda/launch.h"

namespace tailor {

class CudaStreamRef {
 public:
  explicit CudaStreamRef(cudaStream_t handle, LaunchSink* sink = nullptr)
      : handle_(handle), sink_(sink) {}

  // For whatever is no launch of a kernel: it comes after all that was recorded.
  cudaStream_t Direct() const {
    if (sink_ != nullptr) sink_->Flush();
    return handle_;
  }
  // Takes launches in the stream's place; null: nobody records.
  LaunchSink* sink() const { return sink_; }

 private:
  cudaStream_t handle_;
  LaunchSink* sink_;
};

}  // namespace tailor
