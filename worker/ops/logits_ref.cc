// ReduceLogitsRef.
#include <algorithm>
#include <cmath>

#include "worker/ops/reference.h"

namespace tailor {
namespace {

// The value that a token is ranked by: NaN as -infinity, -0 as 0.
float Rank(float value) {
  return std::isnan(value) ? -std::numeric_limits<float>::infinity() : value + 0.0f;
}

// The largest of the values that are numbers, and the sum of e^(value - largest) over them.
double SumOfExponentials(std::span<const float> values, float* largest) {
  *largest = -std::numeric_limits<float>::infinity();
  for (const float value : values) *largest = std::max(*largest, Rank(value));
  double sum = 0;
  for (const float value : values) {
    if (!std::isnan(value)) sum += std::exp(static_cast<double>(value) - *largest);
  }
  return sum;
}

}  // namespace

LogitReduction ReduceLogitsRef(std::span<const float> logits, const LogitQuery& query) {
  std::vector<float> values(logits.begin(), logits.end());
  for (const LogitAdjustment& adjustment : query.adjustments) {
    float& value = values[adjustment.token];
    value = value > 0 ? value / adjustment.repetition : value * adjustment.repetition;
    value -= adjustment.subtract;
  }
  for (float& value : values) value /= query.temperature;
  LogitReduction out;
  out.sum = SumOfExponentials(logits, &out.max_logit);
  float largest = 0;
  if (query.mass) out.mass = SumOfExponentials(values, &largest);
  for (size_t i = 0; i < values.size(); ++i) {
    out.candidates.push_back({static_cast<TokenId>(i), Rank(values[i]), logits[i]});
  }
  std::sort(out.candidates.begin(), out.candidates.end(),
            [](const LogitCandidate& a, const LogitCandidate& b) {
              return a.value != b.value ? a.value > b.value : a.token < b.token;
            });
  out.candidates.resize(std::min<size_t>(query.candidates, values.size()));
  return out;
}

}  // namespace tailor
