#include "worker/cache/self_check.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "common/status.h"

namespace tailor {
namespace {

// e^(lse - reference) of one head; zero for an empty set.
double Mass(float lse, double reference) { return std::exp(static_cast<double>(lse) - reference); }

}  // namespace

HeadCheck CompareWithExact(const PartialAttention& attended, const PartialAttention& candidates,
                           const PartialAttention& fetched, std::span<const float> out) {
  const size_t group = attended.lse.size(), d = attended.out.size() / group;
  HeadCheck check{.captured_mass = 0, .output_error = 0};
  for (size_t h = 0; h < group; ++h) {
    const double reference = std::max(attended.lse[h], candidates.lse[h]);
    const double near = Mass(attended.lse[h], reference);
    const double all = Mass(candidates.lse[h], reference), taken = Mass(fetched.lse[h], reference);
    const double total = near + std::max(0.0, all - taken);  // rounding may make it negative
    double error = 0, norm = 0;
    for (size_t c = h * d; c < (h + 1) * d; ++c) {
      const double exact =
          (near * attended.out[c] + all * candidates.out[c] - taken * fetched.out[c]) / total;
      error += (out[c] - exact) * (out[c] - exact);
      norm += exact * exact;
    }
    check.captured_mass += near / total;
    check.output_error += norm > 0 ? std::sqrt(error / norm) : 0.0;
  }
  check.captured_mass /= static_cast<double>(group);
  check.output_error /= static_cast<double>(group);
  return check;
}

void CheckTotals::Add(const HeadCheck& check) {
  ++heads;
  captured_mass_sum += check.captured_mass;
  worst_captured_mass = std::min(worst_captured_mass, check.captured_mass);
  output_error_sum += check.output_error;
}

std::vector<ExactQuery> StepCheck::Queries() const {
  std::vector<ExactQuery> queries;
  for (const Head& head : heads_) queries.push_back(head.query);
  return queries;
}

double StepCheck::Finish(std::span<const ExactOutput> answers, CheckTotals& totals) {
  TS_CHECK(answers.size() == heads_.size() && !heads_.empty());
  double sum = 0;
  for (size_t i = 0; i < heads_.size(); ++i) {
    const Head& head = heads_[i];
    const HeadCheck check =
        CompareWithExact({head.attended_lse, head.attended_out}, {answers[i].lse, answers[i].out},
                         {head.fetched_lse, head.fetched_out}, head.out);
    totals.Add(check);
    sum += check.captured_mass;
  }
  const double mean = sum / static_cast<double>(heads_.size());
  heads_.clear();
  return mean;
}

}  // namespace tailor
