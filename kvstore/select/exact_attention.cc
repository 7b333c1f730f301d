#include "kvstore/select/exact_attention.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "common/status.h"
#include "kvstore/select/row_check.h"

namespace tailor {
namespace {

constexpr int kLanes = 16;
using PageScores = std::array<float, kPageTokens>;

// head_dim is a multiple of kLanes (PoolShape::Validate). Sixteen chains, folded in order.
float Dot(const float* a, const float* b, int32_t n) {
  std::array<float, kLanes> sums = {};
  for (int32_t c = 0; c < n; c += kLanes) {
    for (int32_t lane = 0; lane < kLanes; ++lane) sums[lane] += a[c + lane] * b[c + lane];
  }
  float sum = 0;
  for (const float lane : sums) sum += lane;
  return sum;
}

// Online softmax of one query head, page by page.
struct RunningSoftmax {
  double max = -std::numeric_limits<double>::infinity();
  double sum = 0;
  std::span<double> out;  // [head_dim], scaled by e^-max

  void Rescale(double new_max) {
    const double factor = std::exp(max - new_max);
    sum *= factor;
    for (double& value : out) value *= factor;
    max = new_max;
  }
};

absl::Status CheckRows(const ExactInput& input, const BFloat16* rows, size_t page, int32_t first) {
  const int64_t row = int64_t{2} * input.pool->shape().head_dim;
  const uint32_t* checks =
      input.pool->RowChecks(input.layer, input.kv_head, input.sealed_pages[page]);
  for (int32_t t = first; t < kPageTokens; ++t) {
    if (RowCheck({rows + t * row, static_cast<size_t>(row)}) == checks[t]) continue;
    return absl::DataLossError(
        absl::StrCat("row check of layer ", input.layer, " head ", input.kv_head, " token ",
                     static_cast<int64_t>(page) * kPageTokens + t));
  }
  return absl::OkStatus();
}

void AddPage(std::span<const float> q, const float* rows, int32_t first, RunningSoftmax& state) {
  const auto d = static_cast<int32_t>(q.size());
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  PageScores scores;
  double largest = state.max;
  for (int32_t t = first; t < kPageTokens; ++t) {
    scores[t] = Dot(q.data(), rows + int64_t{2} * t * d, d) * scale;
    largest = std::max(largest, static_cast<double>(scores[t]));
  }
  if (largest > state.max) state.Rescale(largest);
  for (int32_t t = first; t < kPageTokens; ++t) {
    const double weight = std::exp(scores[t] - state.max);
    const float* value = rows + (int64_t{2} * t + 1) * d;
    state.sum += weight;
    for (int32_t c = 0; c < d; ++c) state.out[c] += weight * value[c];
  }
}

}  // namespace

absl::Status AttendExactly(const ExactInput& input, ExactScratch& scratch, ExactOutput* result) {
  const int32_t d = input.pool->shape().head_dim;
  const size_t group = input.q.size() / d;
  TS_DCHECK(d % kLanes == 0 && group * d == input.q.size());
  scratch.sums.assign(group * d, 0.0);
  scratch.rows.resize(int64_t{2} * d * kPageTokens);
  std::vector<RunningSoftmax> heads(group);
  for (size_t h = 0; h < group; ++h) heads[h].out = std::span(scratch.sums).subspan(h * d, d);
  for (size_t page = 0; page < input.sealed_pages.size(); ++page) {
    // The sink may be a whole page, never more.
    const int32_t first = page == 0 ? input.sink_tokens : 0;
    const BFloat16* rows = input.pool->Rows(input.layer, input.kv_head, input.sealed_pages[page]);
    TS_RETURN_IF_ERROR(CheckRows(input, rows, page, first));
    std::transform(rows, rows + scratch.rows.size(), scratch.rows.begin(), ToFloat);
    for (size_t h = 0; first < kPageTokens && h < group; ++h) {
      AddPage(input.q.subspan(h * d, d), scratch.rows.data(), first, heads[h]);
    }
  }
  result->lse.resize(group);
  result->out.assign(group * d, 0.0f);
  for (size_t h = 0; h < group; ++h) {
    result->lse[h] = static_cast<float>(heads[h].max + std::log(heads[h].sum));
    for (int32_t c = 0; heads[h].sum > 0 && c < d; ++c) {
      result->out[h * d + c] = static_cast<float>(heads[h].out[c] / heads[h].sum);
    }
  }
  return absl::OkStatus();
}

}  // namespace tailor
