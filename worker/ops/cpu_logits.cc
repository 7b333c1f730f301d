#include "worker/ops/cpu_logits.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>

#include "common/status.h"
#include "worker/ops/logit_math.h"

namespace tailor {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();  // adds 0 to a sum

// The best `count` of all slices, best first.
void TakeBest(std::span<const BestKeys> slices, std::span<const float> row, int32_t count,
              std::vector<LogitCandidate>* out) {
  std::vector<uint64_t> keys;
  for (const BestKeys& slice : slices) {
    keys.insert(keys.end(), slice.keys().begin(), slice.keys().end());
  }
  const auto kept = keys.begin() + std::min<ptrdiff_t>(count, std::ssize(keys));
  std::nth_element(keys.begin(), kept, keys.end(), std::greater<>());
  std::sort(keys.begin(), kept, std::greater<>());
  for (auto key = keys.begin(); key != kept; ++key) {
    out->push_back({TokenOf(*key), ValueOf(*key), row[TokenOf(*key)]});
  }
}

}  // namespace

void BestKeys::Reset(int32_t count) {
  keys_.clear();
  count_ = static_cast<size_t>(count);
  prune_at_ = 2 * count_ + kLogitKeys;
  bound_ = 0;
}

void BestKeys::Prune() {
  if (keys_.size() <= count_) return;
  const auto last = keys_.begin() + static_cast<ptrdiff_t>(count_) - 1;
  std::nth_element(keys_.begin(), last, keys_.end(), std::greater<>());
  bound_ = static_cast<uint32_t>(*last >> 32);
  keys_.resize(count_);
}

void BestKeys::Add(const CpuKernels& kernels, const float* values, int32_t size, int32_t first) {
  for (int32_t i = 0; i < size; i += kLogitKeys) {
    uint64_t found[kLogitKeys];
    const int32_t added =
        kernels.logit_keys(values + i, std::min(kLogitKeys, size - i), first + i, bound_, found);
    if (added == 0) continue;
    keys_.insert(keys_.end(), found, found + added);
    if (keys_.size() >= prune_at_ || count_ == 1) Prune();
  }
}

void CpuLogits::ReducePiece(std::span<const float> row, int32_t piece, const LogitQuery& query,
                            LogitPieceSums* sums, BestKeys* best) const {
  const int32_t first = piece * kLogitPiece;
  const int32_t size = std::min(kLogitPiece, static_cast<int32_t>(row.size()) - first);
  float values[kLogitPiece];
  const float* logits = row.data() + first;
  if (size < kLogitPiece) {
    std::memcpy(values, logits, size * sizeof(float));
    std::fill(values + size, values + kLogitPiece, kNothing);
    logits = values;
  }
  kernels_.logit_sum(logits, &sums->max_logit, &sums->sum);
  const LogitAdjustment* adjustments = query.adjustments.data();
  const auto count = static_cast<int32_t>(query.adjustments.size());
  const int32_t from = FirstFrom(adjustments, count, first);
  const int32_t to = from + FirstFrom(adjustments + from, count - from, first + size);
  if (from == to && query.temperature == 1.0f) {
    sums->max_value = sums->max_logit;
    sums->mass = sums->sum;
    return best->Add(kernels_, logits, size, first);
  }
  if (logits != values) std::memcpy(values, logits, sizeof(values));
  for (int32_t i = from; i < to; ++i) {
    float& value = values[adjustments[i].token - first];
    value = AdjustedLogit(value, adjustments[i].repetition, adjustments[i].subtract);
  }
  if (query.temperature != 1.0f) kernels_.logit_divide(query.temperature, values);
  if (query.mass) kernels_.logit_sum(values, &sums->max_value, &sums->mass);
  best->Add(kernels_, values, size, first);
}

void CpuLogits::Reduce(MatrixView<const float> logits, std::span<const LogitQuery> queries,
                       std::span<LogitReduction> out) {
  const auto rows = static_cast<int64_t>(queries.size());
  if (rows == 0) return;
  const int64_t pieces = (logits.cols + kLogitPiece - 1) / kLogitPiece;
  const int64_t slices = std::min(pieces, (2 * pool_.threads() + rows - 1) / rows);
  sums_.assign(rows * pieces, {});
  if (std::ssize(best_) < rows * slices) best_.resize(rows * slices);
  pool_.ForEach(rows * slices, [&](int64_t unit, int) {
    const int64_t r = unit / slices, slice = unit % slices;
    BestKeys& best = best_[unit];
    best.Reset(queries[r].candidates);
    if (queries[r].candidates == 0) return;
    for (int64_t p = pieces * slice / slices; p < pieces * (slice + 1) / slices; ++p) {
      ReducePiece(logits.row(r), static_cast<int32_t>(p), queries[r], &sums_[r * pieces + p],
                  &best);
    }
  });
  pool_.ForEach(rows, [&](int64_t r, int) {
    out[r] = {};
    if (queries[r].candidates == 0) return;
    TakeBest(std::span(best_).subspan(r * slices, slices), logits.row(r), queries[r].candidates,
             &out[r].candidates);
    CombinePieces(std::span(sums_).subspan(r * pieces, pieces), &out[r]);
    if (!queries[r].mass) out[r].mass = 0;
  });
}

}  // namespace tailor
