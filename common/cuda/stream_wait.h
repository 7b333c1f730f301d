// Lets a stream wait until a 64-bit word of mapped memory has reached a value: a memory operation
// of the stream itself, which holds no multiprocessor. Asked of the driver at run time, since we do
// not link it.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "common/cuda/stream_ref.h"

namespace tailor {

class CudaStreamWait {
 public:
  // Errors: Unavailable, where driver or device cannot.
  static absl::StatusOr<CudaStreamWait> Find(int device);

  // Ops enqueued after this start once *word - value, as a signed number, is at least 0.
  absl::Status Enqueue(const uint64_t* word, uint64_t value, CudaStreamRef stream) const;

 private:
  explicit CudaStreamWait(void* entry) : entry_(entry) {}
  void* entry_;  // cuStreamWaitValue64
};

}  // namespace tailor
