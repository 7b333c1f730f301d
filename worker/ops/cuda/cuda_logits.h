// ReduceLogits over one CUDA backend's stream and scratch: the queries go up, sums of pieces and
// candidates of all rows come down in one copy.
#pragma once

#include <vector>

#include "worker/ops/cuda/cuda_context.h"
#include "worker/ops/logits.h"

namespace tailor::cuda {

class CudaLogits {
 public:
  explicit CudaLogits(CudaContext* context) : context_(*context) {}
  void Reduce(MatrixView<const float> logits, std::span<const LogitQuery> queries,
              std::span<LogitReduction> out);

 private:
  // The rows' adjustments, one after the other, on the device.
  const LogitAdjustment* PutAdjustments(std::span<const LogitQuery> queries);
  const LogitRow* PutRows(std::span<const LogitQuery> queries);
  LogitWork TakeWork(int32_t rows, int32_t vocab, int32_t candidates);

  CudaContext& context_;
  std::vector<LogitAdjustment> adjustments_;
  std::vector<LogitRow> rows_;
  std::vector<std::byte> result_;
};

}  // namespace tailor::cuda
