// Arguments of a recorded step that live in memory: written to a block of the host, brought over by
// one copy before the step's graph. A step that puts the same sizes finds them at the same places
// of the device, so that pointers to them stay equal from step to step.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "common/cuda/handles.h"
#include "worker/ops/cuda/device_pool.h"

namespace tailor::cuda {

class StepArguments {
 public:
  static constexpr int64_t kFirstBytes = int64_t{1} << 20;
  static constexpr int64_t kMostBytes = int64_t{64} << 20;

  // `pool` outlives it.
  static absl::StatusOr<StepArguments> Make(DevicePool* pool);

  // Begins a step: waits until the copy of the step before the last has ended, whose block of the
  // host is used again. Grows first where the last step found no room, if there is memory.
  absl::Status Begin();
  // Where the device will find `bytes`; null where they have no room.
  const std::byte* Put(std::span<const std::byte> bytes);
  // Enqueues the copy of what was put.
  absl::Status Enqueue(cudaStream_t stream);

  int64_t capacity() const { return capacity_; }

 private:
  explicit StepArguments(DevicePool* pool) : pool_(pool) {}
  // On an error everything stays as it was.
  absl::Status Resize(int64_t bytes);

  struct Block {
    CudaPinned memory;
    CudaEvent copied;
  };
  DevicePool* pool_;
  std::array<Block, 2> blocks_;  // in turn: a copy may still read the other
  std::byte* device_ = nullptr;  // one for all steps: they follow one another in the stream
  int64_t capacity_ = 0, used_ = 0;
  size_t block_ = 0;
  bool found_no_room_ = false;
};

}  // namespace tailor::cuda
