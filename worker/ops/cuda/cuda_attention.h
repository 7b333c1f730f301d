// Attention of the CUDA backend: plans on the host, then kernels. Up to kSkinnyRows queries read
// the rows once, split over tokens; more go to tensor cores.
#pragma once

#include <vector>

#include "worker/ops/attention.h"
#include "worker/ops/cuda/cuda_context.h"

namespace tailor::cuda {

class CudaAttention {
 public:
  explicit CudaAttention(CudaContext* context) : context_(*context) {}
  void Attend(const RowAttention& attention);
  void AttendQuantized(const QuantizedAttention& attention);

 private:
  // The segments of every head on the device, in the kernels' form.
  KeyTable PutKeys(std::span<const std::span<const RowSegment>> segments, int32_t head_dim);
  Partials TakePartials(int64_t queries, int64_t q_heads, int32_t splits, int32_t head_dim);

  CudaContext& context_;
  std::vector<SegmentRef> segments_;
  std::vector<int32_t> starts_;
  std::vector<const std::byte*> pages_;
};

}  // namespace tailor::cuda
