#include "worker/ops/cuda/cuda_copies.h"

#include <algorithm>

#include "common/status.h"

namespace tailor::cuda {
namespace {

// From here on an engine's start, some microseconds, is small beside the copy.
constexpr int64_t kEngineBytes = int64_t{1} << 20;
// A kernel of this many blocks has 256 KiB in flight, more than PCIe's bandwidth times its latency,
// and leaves most multiprocessors to the ops.
constexpr int32_t kAsideBlocks = 16;
constexpr size_t kListPieces = 32768;  // of one launch: half a section of the argument ring
static_assert(kListPieces * sizeof(CopyRef) * 2 <= ArgumentRing::kSectionBytes);

}  // namespace

absl::StatusOr<CudaCopies> CudaCopies::Make(CudaContext* context) {
  CudaCopies copies(context);
  TS_ASSIGN_OR_RETURN(copies.aside_, MakeCudaStream());
  TS_ASSIGN_OR_RETURN(copies.ops_done_, MakeCudaEvent());
  TS_ASSIGN_OR_RETURN(copies.aside_done_, MakeCudaEvent());
  TS_ASSIGN_OR_RETURN(std::byte * arguments,
                      context->pool().Allocate(ArgumentRing::DeviceBytes(),
                                               static_cast<int>(MemoryKind::kWorkspace)));
  TS_ASSIGN_OR_RETURN(copies.aside_arguments_, ArgumentRing::Make(arguments));
  return copies;
}

template <typename Put>
void CudaCopies::Run(std::span<const CopyPiece> pieces, int32_t most_blocks, CudaStreamRef stream,
                     Put put) {
  int64_t tiles = 0;
  list_.clear();
  const auto flush = [&] {
    if (list_.empty()) return;
    TS_CHECK(tiles <= INT32_MAX);
    const auto count = static_cast<int32_t>(list_.size()), all = static_cast<int32_t>(tiles);
    LaunchCopy(put(std::span<const CopyRef>(list_)), count, all, std::min(all, most_blocks),
               stream);
    tiles = 0;
    list_.clear();
  };
  for (const CopyPiece& piece : pieces) {
    const auto places = reinterpret_cast<uintptr_t>(piece.from) |
                        reinterpret_cast<uintptr_t>(piece.to) | static_cast<uint64_t>(piece.bytes);
    TS_CHECK(places % kCopyAlignment == 0);
    if (piece.bytes == 0) continue;
    if (piece.bytes >= kEngineBytes) {
      CheckCuda(cudaMemcpyAsync(piece.to, piece.from, static_cast<size_t>(piece.bytes),
                                cudaMemcpyDefault, stream.Direct()),
                "cudaMemcpyAsync of rows");
      continue;
    }
    list_.push_back({piece.from, piece.to, piece.bytes, static_cast<int32_t>(tiles)});
    tiles += (piece.bytes + kCopyTileBytes - 1) / kCopyTileBytes;
    if (list_.size() == kListPieces) flush();
  }
  flush();
  CheckCuda(cudaGetLastError(), "Copy");
}

void CudaCopies::Copy(std::span<const CopyPiece> pieces) {
  context_->Bind();
  Run(pieces, 2 * context_->multiprocessors(), context_->stream(),
      [&](std::span<const CopyRef> list) { return context_->Put(list); });
}

void CudaCopies::CopyAside(std::span<const CopyPiece> pieces) {
  context_->Bind();
  const CudaStreamRef aside(aside_.get());
  CheckCuda(cudaEventRecord(ops_done_.get(), context_->stream().Direct()), "cudaEventRecord");
  CheckCuda(cudaStreamWaitEvent(aside_.get(), ops_done_.get(), 0), "cudaStreamWaitEvent");
  Run(pieces, kAsideBlocks, aside, [&](std::span<const CopyRef> list) {
    return reinterpret_cast<const CopyRef*>(
        aside_arguments_.Put(std::as_bytes(list), aside_.get()));
  });
  pending_ = true;
}

void CudaCopies::AwaitAside() {
  if (!pending_) return;
  context_->Bind();
  CheckCuda(cudaEventRecord(aside_done_.get(), aside_.get()), "cudaEventRecord");
  CheckCuda(cudaStreamWaitEvent(context_->stream().Direct(), aside_done_.get(), 0),
            "cudaStreamWaitEvent");
  pending_ = false;
}

}  // namespace tailor::cuda
