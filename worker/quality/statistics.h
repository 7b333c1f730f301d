// How sure a mean is.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace tailor {

// A mean of independent values and its standard error, s / sqrt(n); none for a single value.
struct Spread {
  double mean = 0;
  std::optional<double> standard_error;
};
Spread SpreadOf(std::span<const double> values);

struct Interval {
  double low = 0, high = 0;
};

// A mean with its 95 % confidence interval; none where a group has a single value.
struct Estimate {
  double mean = 0;
  std::optional<Interval> interval;
};

inline constexpr int kBootstrapResamples = 10000;

// The mean over groups of the groups' means, with its percentile bootstrap interval: each of
// kBootstrapResamples resamples draws every group anew from itself, with replacement (Efron &
// Tibshirani, An Introduction to the Bootstrap, ch. 13). The seed is fixed: equal values give equal
// intervals. Where all values of all groups agree, the interval has no width, however few there
// are. Precondition: no group is empty, and there is one.
Estimate BootstrapMean(std::span<const std::vector<double>> groups);

}  // namespace tailor
