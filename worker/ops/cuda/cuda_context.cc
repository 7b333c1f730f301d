#include "worker/ops/cuda/cuda_context.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "common/status.h"
#include "worker/ops/cuda/own_memory.h"

namespace tailor::cuda {
namespace {

constexpr int kWorkspace = 0;                         // MemoryKind::kWorkspace

// TAILOR_CUDA_GRAPHS=off: steps are enqueued op by op, for comparison and in search of a fault.
StepRecorder::Graphs GraphsOfEnvironment() {
  const char* graphs = std::getenv("TAILOR_CUDA_GRAPHS");
  const bool off = graphs != nullptr && std::strcmp(graphs, "off") == 0;
  return off ? StepRecorder::Graphs::kOff : StepRecorder::Graphs::kOn;
}

}  // namespace

absl::StatusOr<ArgumentRing> ArgumentRing::Make(std::byte* device) {
  ArgumentRing ring;
  TS_ASSIGN_OR_RETURN(ring.host_, MakeCudaPinned(DeviceBytes()));
  for (CudaEvent& event : ring.copied_) {
    TS_ASSIGN_OR_RETURN(event, MakeCudaEvent());
  }
  ring.device_ = device;
  return ring;
}

const std::byte* ArgumentRing::Put(std::span<const std::byte> bytes, cudaStream_t stream) {
  const auto size = static_cast<int64_t>(bytes.size());
  TS_CHECK(size <= kSectionBytes);
  if (used_ + size > kSectionBytes) {
    CheckCuda(cudaEventRecord(copied_[section_].get(), stream), "cudaEventRecord");
    section_ = (section_ + 1) % kSections;
    CheckCuda(cudaEventSynchronize(copied_[section_].get()), "cudaEventSynchronize");
    used_ = 0;
  }
  const int64_t offset = section_ * kSectionBytes + used_;
  used_ += (size + 15) / 16 * 16;
  auto* host = static_cast<std::byte*>(host_.get()) + offset;
  std::memcpy(host, bytes.data(), bytes.size());
  CheckCuda(cudaMemcpyAsync(device_ + offset, host, bytes.size(), cudaMemcpyHostToDevice, stream),
            "cudaMemcpyAsync of arguments");
  return device_ + offset;
}

std::byte* Scratch::TakeBytes(int64_t bytes, CudaContext& context) {
  if (used_ == pieces_.size()) {
    pieces_.push_back(nullptr);
    sizes_.push_back(0);
  }
  if (sizes_[used_] < bytes) {
    if (pieces_[used_] != nullptr) context.recorder().Free(pieces_[used_]);
    pieces_[used_] = nullptr;
    sizes_[used_] = 0;
    auto piece = context.pool().Allocate(bytes, kWorkspace);
    Scratch& shared = context.scratch(0);
    if (!piece.ok() && context.recorder().recording()) {
      context.recorder().Flush();  // gives back what was freed in this step
      if (this != &shared) shared.Begin();
      piece = context.pool().Allocate(bytes, kWorkspace);
    }
    // No memory for a lane of its own: nothing is recorded any more, so none is needed.
    if (!piece.ok() && this != &shared) return shared.TakeBytes(bytes, context);
    if (!piece.ok()) {
      std::fprintf(stderr, "CUDA backend: scratch of an op: %s\n",
                   std::string(piece.status().message()).c_str());
      std::abort();
    }
    pieces_[used_] = *piece;
    sizes_[used_] = bytes;
  }
  return pieces_[used_++];
}

absl::StatusOr<std::unique_ptr<CudaContext>> CudaContext::Make(const CudaModuleOptions& options) {
  auto context = std::make_unique<CudaContext>();
  context->device_ = options.device;
  TS_RETURN_IF_ERROR(CudaStatus(cudaSetDevice(options.device), "cudaSetDevice"));
  TS_RETURN_IF_ERROR(
      CudaStatus(cudaDeviceGetAttribute(&context->multiprocessors_, cudaDevAttrMultiProcessorCount,
                                        options.device),
                 "cudaDeviceGetAttribute"));
  size_t free_bytes = 0, total_bytes = 0;
  TS_RETURN_IF_ERROR(CudaStatus(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo"));
  const int64_t bytes =
      options.memory_bytes > 0 ? options.memory_bytes : static_cast<int64_t>(free_bytes / 10 * 9);
  if (bytes > static_cast<int64_t>(free_bytes)) {
    return absl::ResourceExhaustedError(absl::StrCat("device memory: ", bytes, " bytes asked, ",
                                                     free_bytes, " free of ", total_bytes));
  }
  TS_ASSIGN_OR_RETURN(context->memory_, MakeCudaMemory(bytes));
  context->pool_ =
      std::make_unique<DevicePool>(static_cast<std::byte*>(context->memory_.get()), bytes);
  TS_ASSIGN_OR_RETURN(context->stream_, MakeCudaStream());
  TS_ASSIGN_OR_RETURN(std::byte * arguments,
                      context->pool_->Allocate(ArgumentRing::DeviceBytes(), kWorkspace));
  TS_ASSIGN_OR_RETURN(context->arguments_, ArgumentRing::Make(arguments));
  TS_ASSIGN_OR_RETURN(
      context->recorder_,
      StepRecorder::Make(context->pool_.get(), context->stream_.get(), GraphsOfEnvironment()));
  TS_ASSIGN_OR_RETURN(context->stage_, context->pool_->Allocate(kStageBytes, kWorkspace));
  TS_ASSIGN_OR_RETURN(std::byte * probe, context->pool_->Allocate(kFirstScratchBytes, kWorkspace));
  context->pool_->Free(probe);
  context->scratch().Begin();
  context->scratch().Take<std::byte>(kFirstScratchBytes, *context);
  return context;
}

Scratch& CudaContext::scratch(int lane) {
  while (static_cast<int>(scratch_.size()) <= lane) scratch_.emplace_back();
  return scratch_[lane];
}

void CudaContext::Bind() const {
  static thread_local int bound = -1;
  if (bound == device_) return;
  CheckCuda(cudaSetDevice(device_), "cudaSetDevice");
  bound = device_;
}

void CudaContext::Synchronize() const {
  CheckCuda(cudaStreamSynchronize(stream().Direct()), "cudaStreamSynchronize");
}

}  // namespace tailor::cuda
