#include "worker/ops/cuda/step_arguments.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/status.h"

namespace tailor::cuda {
namespace {

constexpr int kWorkspace = 0;  // MemoryKind::kWorkspace
constexpr int64_t kAlign = 16;

}  // namespace

absl::StatusOr<StepArguments> StepArguments::Make(DevicePool* pool) {
  StepArguments made(pool);
  for (Block& block : made.blocks_) {
    TS_ASSIGN_OR_RETURN(block.copied, MakeCudaEvent());
  }
  TS_RETURN_IF_ERROR(made.Resize(kFirstBytes));
  return made;
}

absl::Status StepArguments::Resize(int64_t bytes) {
  // The likelier refusal first: it is asked for again at every step that needs it.
  if (pool_->largest_hole() < bytes) return absl::ResourceExhaustedError("step arguments");
  std::array<CudaPinned, 2> host;
  for (CudaPinned& memory : host) {
    TS_ASSIGN_OR_RETURN(memory, MakeCudaPinned(bytes));
  }
  for (const Block& block : blocks_) {
    TS_RETURN_IF_ERROR(CudaStatus(cudaEventSynchronize(block.copied.get()), "step arguments"));
  }
  TS_ASSIGN_OR_RETURN(std::byte * device, pool_->Allocate(bytes, kWorkspace));
  for (size_t i = 0; i < blocks_.size(); ++i) blocks_[i].memory = std::move(host[i]);
  if (device_ != nullptr) pool_->Free(device_);  // its readers come before its next owner
  device_ = device;
  capacity_ = bytes;
  return absl::OkStatus();
}

absl::Status StepArguments::Begin() {
  used_ = 0;
  if (std::exchange(found_no_room_, false) && capacity_ < kMostBytes) {
    (void)Resize(2 * capacity_);  // without it the step is flushed where room ends
  }
  block_ ^= 1;
  return CudaStatus(cudaEventSynchronize(blocks_[block_].copied.get()), "step arguments");
}

const std::byte* StepArguments::Put(std::span<const std::byte> bytes) {
  const auto size = static_cast<int64_t>(bytes.size());
  if (size > capacity_ - used_) {
    found_no_room_ = true;
    return nullptr;
  }
  const int64_t first = used_;
  used_ += std::min(capacity_ - used_, (size + kAlign - 1) / kAlign * kAlign);
  if (size > 0) {
    std::memcpy(static_cast<std::byte*>(blocks_[block_].memory.get()) + first, bytes.data(),
                bytes.size());
  }
  return device_ + first;
}

absl::Status StepArguments::Enqueue(cudaStream_t stream) {
  if (used_ == 0) return absl::OkStatus();
  const Block& block = blocks_[block_];
  TS_RETURN_IF_ERROR(
      CudaStatus(cudaMemcpyAsync(device_, block.memory.get(), static_cast<size_t>(used_),
                                 cudaMemcpyHostToDevice, stream),
                 "cudaMemcpyAsync of step arguments"));
  return CudaStatus(cudaEventRecord(block.copied.get(), stream), "cudaEventRecord");
}

}  // namespace tailor::cuda
