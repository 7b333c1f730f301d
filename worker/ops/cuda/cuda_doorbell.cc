#include "worker/ops/cuda/cuda_doorbell.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include "common/status.h"

namespace tailor::cuda {
namespace {

// Kernels and driver know the words as plain ones.
uint64_t* Word(std::atomic<uint64_t>& word) { return reinterpret_cast<uint64_t*>(&word); }

}  // namespace

CudaDoorbell::CudaDoorbell(CudaContext* context) : context_(context) {
  auto wait = CudaStreamWait::Find(context->device());
  if (wait.ok()) {
    wait_ = *wait;
  } else {
    (void)cudaGetLastError();  // an old driver's refusal is no op's error
    std::fprintf(stderr, "CUDA backend: a kernel waits for selections: %s\n",
                 std::string(wait.status().message()).c_str());
  }
}

absl::StatusOr<std::span<std::byte>> CudaDoorbell::Shared(int64_t bytes) {
  context_->Bind();
  TS_ASSIGN_OR_RETURN(CudaPinned memory, MakeCudaPinned(bytes));
  std::memset(memory.get(), 0, static_cast<size_t>(bytes));
  const std::span<std::byte> shared(static_cast<std::byte*>(memory.get()),
                                    static_cast<size_t>(bytes));
  shared_.push_back(std::move(memory));
  return shared;
}

void CudaDoorbell::Ring(std::span<const float> q, const DoorbellMemory& memory, uint64_t number) {
  TS_CHECK(static_cast<int64_t>(q.size()) <= memory.query_floats());
  context_->Bind();
  // Numbers ring in order, and their slots are free, only after all that was enqueued before.
  context_->recorder().JoinNext();
  LaunchRing(q.data(), static_cast<int32_t>(q.size()), memory.query(number),
             Word(memory.words().rung), number, context_->stream());
  CheckCuda(cudaGetLastError(), "Ring");
}

void CudaDoorbell::Await(const DoorbellMemory& memory, uint64_t number) {
  context_->Bind();
  const uint64_t* const answered = Word(memory.words().answered);
  if (!wait_.has_value() || context_->recorder().recording()) {
    LaunchAwait(answered, number, context_->stream());
    return CheckCuda(cudaGetLastError(), "Await");
  }
  CheckCuda(wait_->Enqueue(answered, number, context_->stream()));
}

}  // namespace tailor::cuda
