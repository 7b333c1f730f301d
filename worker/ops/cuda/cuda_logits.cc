#include "worker/ops/cuda/cuda_logits.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "common/status.h"

namespace tailor::cuda {

const LogitAdjustment* CudaLogits::PutAdjustments(std::span<const LogitQuery> queries) {
  adjustments_.clear();
  for (const LogitQuery& query : queries) {
    adjustments_.insert(adjustments_.end(), query.adjustments.begin(), query.adjustments.end());
  }
  if (adjustments_.empty()) return nullptr;
  const std::span<const LogitAdjustment> all = adjustments_;
  if (static_cast<int64_t>(all.size_bytes()) <= ArgumentRing::kSectionBytes) {
    return context_.Put(all);
  }
  auto* device = context_.scratch().Take<LogitAdjustment>(std::ssize(all), context_);
  CheckCuda(cudaMemcpyAsync(device, all.data(), all.size_bytes(), cudaMemcpyHostToDevice,
                            context_.stream().Direct()),
            "cudaMemcpyAsync of adjustments");
  return device;
}

void CudaLogits::Reduce(MatrixView<const float> logits, std::span<const LogitQuery> queries,
                        std::span<LogitReduction> out) {
  const auto rows = static_cast<int32_t>(queries.size());
  const auto vocab = static_cast<int32_t>(logits.cols);
  LogitWork work;
  for (const LogitQuery& query : queries) {
    TS_CHECK(query.candidates <= kMaxLogitCandidates);
    work.count = std::max(work.count, std::min(query.candidates, vocab));
  }
  for (LogitReduction& reduction : out) reduction = {};
  if (work.count == 0) return;
  context_.Bind();
  Scratch& scratch = context_.scratch();
  scratch.Begin();
  const LogitAdjustment* adjustments = PutAdjustments(queries);
  rows_.clear();
  for (const LogitQuery& query : queries) {
    const auto count = static_cast<int32_t>(query.adjustments.size());
    rows_.push_back({.adjustments = adjustments,
                     .count = count,
                     .temperature = query.temperature,
                     .wanted = query.candidates > 0,
                     .mass = query.mass});
    adjustments += count;
  }
  const int64_t pieces = LogitPieces(vocab), keys = rows * pieces;
  work.run = static_cast<int32_t>(std::bit_ceil(static_cast<uint32_t>(work.count)));
  work.best = scratch.Take<uint64_t>(keys * work.run, context_);
  work.merged = scratch.Take<uint64_t>(keys * work.run, context_);
  const size_t sums_bytes = keys * sizeof(LogitPieceSums);
  result_.resize(sums_bytes + int64_t{rows} * work.count * sizeof(LogitCandidate));
  auto* result = scratch.Take<std::byte>(std::ssize(result_), context_);
  work.sums = reinterpret_cast<LogitPieceSums*>(result);
  work.candidates = reinterpret_cast<LogitCandidate*>(result + sums_bytes);
  LaunchReduceLogits({logits.data, logits.stride, rows, vocab},
                     context_.Put(std::span(std::as_const(rows_))), work, context_.stream());
  CheckCuda(cudaGetLastError(), "ReduceLogits");
  CheckCuda(cudaMemcpyAsync(result_.data(), result, result_.size(), cudaMemcpyDeviceToHost,
                            context_.stream().Direct()),
            "cudaMemcpyAsync of reduced logits");
  context_.Synchronize();
  const auto* sums = reinterpret_cast<const LogitPieceSums*>(result_.data());
  const auto* best = reinterpret_cast<const LogitCandidate*>(result_.data() + sums_bytes);
  for (int32_t r = 0; r < rows; ++r) {
    if (!rows_[r].wanted) continue;
    CombinePieces({sums + r * pieces, static_cast<size_t>(pieces)}, &out[r]);
    const auto* row = best + int64_t{r} * work.count;
    out[r].candidates.assign(row, row + std::min(queries[r].candidates, work.count));
  }
}

}  // namespace tailor::cuda
