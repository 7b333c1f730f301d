#include "worker/quality/statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "common/status.h"

namespace tailor {
namespace {

constexpr uint64_t kSeed = 1;

double Mean(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

}  // namespace

Spread SpreadOf(std::span<const double> values) {
  TS_CHECK(!values.empty());
  Spread spread = {.mean = Mean(values), .standard_error = std::nullopt};
  if (values.size() == 1) return spread;
  double squares = 0;
  for (const double v : values) squares += (v - spread.mean) * (v - spread.mean);
  const auto n = static_cast<double>(values.size());
  spread.standard_error = std::sqrt(squares / (n - 1) / n);
  return spread;
}

Estimate BootstrapMean(std::span<const std::vector<double>> groups) {
  TS_CHECK(!groups.empty());
  const auto group_count = static_cast<double>(groups.size());
  Estimate estimate;
  bool can_vary = true;
  for (const auto& group : groups) {
    TS_CHECK(!group.empty());
    estimate.mean += Mean(group) / group_count;
    can_vary = can_vary && group.size() > 1;
  }
  if (!can_vary) return estimate;
  std::mt19937_64 random(kSeed);
  std::vector<double> means(kBootstrapResamples, 0.0);
  for (double& mean : means) {
    for (const auto& group : groups) {
      double sum = 0;
      for (size_t i = 0; i < group.size(); ++i) sum += group[random() % group.size()];
      mean += sum / static_cast<double>(group.size()) / group_count;
    }
  }
  std::sort(means.begin(), means.end());
  estimate.interval = {.low = means[kBootstrapResamples * 25 / 1000],
                       .high = means[kBootstrapResamples * 975 / 1000 - 1]};
  return estimate;
}

}  // namespace tailor
