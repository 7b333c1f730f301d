// Copies between device memory and mapped memory of the host: in the stream of the ops, or beside
// it in a stream of their own. Long pieces go to a copy engine, which costs no multiprocessor; the
// others go together in a kernel.
#pragma once

#include <span>
#include <vector>

#include "worker/ops/backend.h"
#include "worker/ops/cuda/cuda_context.h"

namespace tailor::cuda {

class CudaCopies {
 public:
  // Errors: those of streams, events and page-locked memory; ResourceExhausted for the pool's.
  static absl::StatusOr<CudaCopies> Make(CudaContext* context);

  void Copy(std::span<const CopyPiece> pieces);
  void CopyAside(std::span<const CopyPiece> pieces);
  void AwaitAside();
  // Waits for the copies aside, and says how they ended.
  cudaError_t Synchronize() const { return cudaStreamSynchronize(aside_.get()); }

 private:
  explicit CudaCopies(CudaContext* context) : context_(context) {}
  // put: copies a kernel's list to the device, in stream order.
  template <typename Put>
  void Run(std::span<const CopyPiece> pieces, int32_t most_blocks, CudaStreamRef stream, Put put);

  CudaContext* context_;
  CudaStream aside_;
  CudaEvent ops_done_, aside_done_;
  ArgumentRing aside_arguments_;  // of lists that kernels of aside_ read, however late
  bool pending_ = false;          // a copy aside that the ops' stream does not wait for
  std::vector<CopyRef> list_;
};

}  // namespace tailor::cuda
