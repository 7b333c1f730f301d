// What a policy costs, what a user allows, and which of the measured policies follows from it: a
// function of the measured figures alone. docs/decisions/0005-calibration.md.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "worker/cache/sequence_cache.h"
#include "worker/quality/text_quality.h"

namespace tailor {

struct CalibrationLimits {
  std::optional<int64_t> device_bytes;   // of one sequence of the context's tokens
  std::optional<int64_t> fetched_bytes;  // a decoded token
  std::optional<double> kl;              // nats a token: the quality to be reached

  bool empty() const { return !device_bytes && !fetched_bytes && !kl; }
};

struct PolicyCost {
  int64_t fetched_bytes =
      0;                     // a decoded token, when every layer has as many candidates as it takes
  int64_t device_bytes = 0;  // of one sequence: SequenceCache::Quote
  // A decoded token: index codes, scales and minima, and the keys looked at again, read in host
  // memory. No limit of the user's, but what decides between equals.
  int64_t scored_bytes = 0;

  static PolicyCost Of(const LayerPolicy& policy, const PoolShape& shape, int64_t context_tokens);
};
// Rows fetched a decoded token and KV head, over all sparse layers.
int64_t FetchedRows(const LayerPolicy& policy, int32_t layers);

struct MeasuredPolicy {
  LayerPolicy policy;
  std::string step;  // what the search changed to come here: "channels 16"
  PolicyCost cost;
  TextSummary quality;

  double kl() const { return quality.kl.mean; }
  double mean_recall() const;  // over sparse layers; 1 if there is none
};

// KLs closer than this, as a share, are taken for equal: 256 tokens tell no more apart.
inline constexpr double kKlTolerance = 0.02;

// By how much the cost is above the limits, as a sum of shares; 0: within.
double ByteExcess(const PolicyCost& cost, const CalibrationLimits& limits);
bool MeetsLimits(const MeasuredPolicy& measured, const CalibrationLimits& limits);

// The index of the best, by these in turn:
//   1. least ByteExcess
//   2. limits.kl, where any reaches it: those that do, and of them the fewest fetched bytes
//   3. the lowest KL, and all within kKlTolerance of it
//   4. fewest fetched bytes, then device bytes, then scored bytes, then the earliest
// Precondition: not empty.
size_t ChooseMeasured(std::span<const MeasuredPolicy> measured, const CalibrationLimits& limits);

// Those that nothing measured beats in KL without fetching more: by fetched bytes, ascending.
std::vector<size_t> ParetoFront(std::span<const MeasuredPolicy> measured);

}  // namespace tailor
