// The search for a policy within limits: which policies are measured, in which order. How one is
// measured is the caller's. docs/decisions/0005-calibration.md.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "worker/quality/policy_choice.h"
#include "worker/quality/row_allocation.h"

namespace tailor {

// The values that are tried of each number; a value that the model's shape does not allow is left
// out.
struct SearchSpace {
  std::vector<int32_t> top_k = {32, 64, 96, 128, 192, 256, 384, 512};  // ascending
  std::vector<int32_t> bits = {1, 2, 4, 8};
  std::vector<int32_t> residual_tokens = {64, 128, 256};
  std::vector<int32_t> channels = {8, 16, 24, 32};
  std::vector<int32_t> rescore_extra = {0, 64, 128};
  std::vector<float> tail_gain = {0, 0.25f, 0.5f};

  // Most policies that a search measures.
  int64_t MaxTried(size_t dense_layers) const;
};

struct SearchInput {
  LayerPolicy start;  // measured first: the baseline
  LlamaHyperparameters model;
  PoolShape shape;
  std::vector<int32_t> dense_layers;  // DenseLayers: the prefixes of this order are tried
  int64_t context_tokens = 0;         // that device bytes are stated for
  CalibrationLimits limits;           // empty: the start's bytes
  SearchSpace space;
};

struct SearchResult {
  CalibrationLimits limits;  // as searched
  std::vector<MeasuredPolicy> measured;
  size_t chosen = 0;  // ChooseMeasured(measured, limits)
};

class PolicySearch {
 public:
  using MeasureFn = std::function<absl::StatusOr<TextSummary>(const LayerPolicy& policy,
                                                              const std::string& step)>;

  PolicySearch(const SearchInput& input, MeasureFn measure)
      : in_(input), limits_(input.limits), measure_(std::move(measure)) {}
  // Once. Errors: those of measuring.
  absl::StatusOr<SearchResult> Run();

 private:
  using Change = std::function<void(LayerPolicy&)>;
  absl::Status Measure(const LayerPolicy& policy, const std::string& step);
  // Measures the best so far with the change, unless that was measured, is not valid, or costs more
  // than the limits (and the best) allow.
  absl::Status Try(const LayerPolicy& base, const std::string& step, const Change& change);
  absl::Status TryRows(const LayerPolicy& base, int64_t top_k);
  // Each value of one number, from the best so far.
  absl::Status TryEach(const char* name, const std::vector<int32_t>& values,
                       const std::function<void(LayerPolicy&, int32_t)>& set);
  absl::Status MeasureStart();
  absl::Status TryLayers();
  absl::Status TryQuantization();
  absl::Status TrySelection();
  absl::Status TryTail();
  absl::Status FillLimit();
  absl::Status ShrinkRows();
  absl::Status BisectRows();
  absl::Status Allocate(const LayerPolicy& base);
  const MeasuredPolicy& best() const { return measured_[ChooseMeasured(measured_, limits_)]; }
  // Rows a sparse layer fetches on average.
  int64_t MeanRows(const LayerPolicy& policy) const;

  const SearchInput in_;
  CalibrationLimits limits_;
  const MeasureFn measure_;
  std::vector<MeasuredPolicy> measured_;
  std::vector<RecallCurve> curves_;  // [layers]; empty: no recall was measured
};

}  // namespace tailor
