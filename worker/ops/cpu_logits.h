// ReduceLogits on the CPU: threads take slices of rows, a piece at a time. One pass over the
// logits, in cache; sums, values and candidates of a piece are made together.
#pragma once

#include <vector>

#include "common/cpu/thread_pool.h"
#include "common/matrix_view.h"
#include "worker/ops/cpu_kernels.h"
#include "worker/ops/logits.h"

namespace tailor {

// The best `count` keys of those added, and some more.
class BestKeys {
 public:
  void Reset(int32_t count);
  // The values of tokens from `first` on, which come after those added before.
  void Add(const CpuKernels& kernels, const float* values, int32_t size, int32_t first);
  // In no order.
  const std::vector<uint64_t>& keys() const { return keys_; }

 private:
  void Prune();
  std::vector<uint64_t> keys_;
  size_t count_ = 0, prune_at_ = 0;
  uint32_t bound_ = 0;  // what ranks no higher is not among the best: a tie goes to the lower id
};

class CpuLogits {
 public:
  CpuLogits(const CpuKernels& kernels, ThreadPool* pool) : kernels_(kernels), pool_(*pool) {}
  void Reduce(MatrixView<const float> logits, std::span<const LogitQuery> queries,
              std::span<LogitReduction> out);

 private:
  void ReducePiece(std::span<const float> row, int32_t piece, const LogitQuery& query,
                   LogitPieceSums* sums, BestKeys* best) const;

  const CpuKernels& kernels_;
  ThreadPool& pool_;
  std::vector<LogitPieceSums> sums_;  // [rows][pieces]
  std::vector<BestKeys> best_;        // [rows][slices]
};

}  // namespace tailor
