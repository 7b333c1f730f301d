#include "worker/ops/cuda/cuda_logits.h"

#include <algorithm>
#include <bit>

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

const LogitRow* CudaLogits::PutRows(std::span<const LogitQuery> queries) {
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
  return context_.Put(std::span<const LogitRow>(rows_));
}

LogitWork CudaLogits::TakeWork(int32_t rows, int32_t vocab, int32_t candidates) {
  Scratch& scratch = context_.scratch();
  const int64_t pieces = int64_t{rows} * LogitPieces(vocab);
  const auto run = static_cast<int32_t>(std::bit_ceil(static_cast<uint32_t>(candidates)));
  const auto sums_bytes = pieces * static_cast<int64_t>(sizeof(LogitPieceSums));
  result_.resize(sums_bytes + int64_t{rows} * candidates * sizeof(LogitCandidate));
  auto* result = scratch.Take<std::byte>(std::ssize(result_), context_);
  return {.count = candidates,
          .run = run,
          .best = scratch.Take<uint64_t>(pieces * run, context_),
          .merged = scratch.Take<uint64_t>(pieces * run, context_),
          .sums = reinterpret_cast<LogitPieceSums*>(result),
          .candidates = reinterpret_cast<LogitCandidate*>(result + sums_bytes)};
}

void CudaLogits::Reduce(MatrixView<const float> logits, std::span<const LogitQuery> queries,
                        std::span<LogitReduction> out) {
  const auto rows = static_cast<int32_t>(queries.size());
  const auto vocab = static_cast<int32_t>(logits.cols);
  int32_t candidates = 0;
  for (const LogitQuery& query : queries) {
    TS_CHECK(query.candidates <= kMaxLogitCandidates);
    candidates = std::max(candidates, std::min(query.candidates, vocab));
  }
  for (LogitReduction& reduction : out) reduction = {};
  if (candidates == 0) return;
  context_.Bind();
  context_.scratch().Begin();
  const LogitRow* asked = PutRows(queries);
  const LogitWork work = TakeWork(rows, vocab, candidates);
  LaunchReduceLogits({logits.data, logits.stride, rows, vocab}, asked, work, context_.stream());
  CheckCuda(cudaGetLastError(), "ReduceLogits");
  CheckCuda(cudaMemcpyAsync(result_.data(), work.sums, result_.size(), cudaMemcpyDeviceToHost,
                            context_.stream().Direct()),
            "cudaMemcpyAsync of reduced logits");
  context_.Synchronize();
  const size_t pieces = LogitPieces(vocab);
  const auto* sums = reinterpret_cast<const LogitPieceSums*>(result_.data());
  const auto* best = reinterpret_cast<const LogitCandidate*>(sums + rows * pieces);
  for (int32_t r = 0; r < rows; ++r, sums += pieces, best += candidates) {
    if (queries[r].candidates == 0) continue;
    CombinePieces({sums, pieces}, &out[r]);
    out[r].candidates.assign(best, best + std::min(queries[r].candidates, candidates));
  }
}

}  // namespace tailor::cuda
