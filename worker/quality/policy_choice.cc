#include "worker/quality/policy_choice.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <tuple>

#include "common/status.h"

namespace tailor {
namespace {

// The elements for which `figure` is at most `limit`.
template <typename Figure>
std::vector<size_t> Keep(const std::vector<size_t>& from, double limit, Figure&& figure) {
  std::vector<size_t> kept;
  for (const size_t i : from) {
    if (figure(i) <= limit) kept.push_back(i);
  }
  return kept;
}

template <typename Figure>
double Least(const std::vector<size_t>& of, Figure&& figure) {
  double least = std::numeric_limits<double>::infinity();
  for (const size_t i : of) least = std::min(least, static_cast<double>(figure(i)));
  return least;
}

int32_t RowsOf(const LayerPolicy& policy, int32_t layer) {
  return policy.layer_top_k.empty() ? policy.select.top_k : policy.layer_top_k[layer];
}

}  // namespace

int64_t FetchedRows(const LayerPolicy& policy, int32_t layers) {
  int64_t rows = 0;
  for (const int32_t layer : policy.SparseLayers(layers)) rows += RowsOf(policy, layer);
  return rows;
}

PolicyCost PolicyCost::Of(const LayerPolicy& policy, const PoolShape& shape,
                          int64_t context_tokens) {
  const int64_t row_bytes = int64_t{2} * shape.head_dim * static_cast<int64_t>(sizeof(BFloat16));
  PolicyCost cost;
  cost.fetched_bytes = FetchedRows(policy, shape.layers) * shape.kv_heads * row_bytes;
  const LayerBytes device = SequenceCache::Quote(policy, shape, CacheMode::kHybrid, context_tokens);
  cost.device_bytes = device.codes + device.resident;
  // Of a page and channel: 4 bits a token, scale and minimum.
  const int64_t pages = context_tokens / kPageTokens;
  const int64_t channel_bytes = kPageTokens / 2 + 2 * static_cast<int64_t>(sizeof(float));
  for (const int32_t layer : policy.SparseLayers(shape.layers)) {
    int64_t bytes = pages * policy.select.channels * channel_bytes;
    if (policy.select.rescore_extra > 0) {
      bytes += (int64_t{RowsOf(policy, layer)} + policy.select.rescore_extra) * row_bytes / 2;
    }
    cost.scored_bytes += bytes * shape.kv_heads;
  }
  return cost;
}

double MeasuredPolicy::mean_recall() const {
  double sum = 0;
  int layers = 0;
  for (const LayerQuality& layer : quality.layers) {
    if (!layer.has_recall()) continue;
    sum += layer.mean_recall();
    ++layers;
  }
  return layers == 0 ? 1 : std::min(1.0, sum / layers);
}

double ByteExcess(const PolicyCost& cost, const CalibrationLimits& limits) {
  const auto excess = [](int64_t bytes, std::optional<int64_t> limit) {
    if (!limit || bytes <= *limit) return 0.0;
    return static_cast<double>(bytes - *limit) / static_cast<double>(std::max<int64_t>(*limit, 1));
  };
  return excess(cost.fetched_bytes, limits.fetched_bytes) +
         excess(cost.device_bytes, limits.device_bytes);
}

bool MeetsLimits(const MeasuredPolicy& measured, const CalibrationLimits& limits) {
  return ByteExcess(measured.cost, limits) == 0 && (!limits.kl || measured.kl() <= *limits.kl);
}

size_t ChooseMeasured(std::span<const MeasuredPolicy> measured, const CalibrationLimits& limits) {
  TS_CHECK(!measured.empty());
  const auto excess = [&](size_t i) { return ByteExcess(measured[i].cost, limits); };
  const auto fetched = [&](size_t i) { return measured[i].cost.fetched_bytes; };
  const auto kl = [&](size_t i) { return measured[i].kl(); };
  std::vector<size_t> left(measured.size());
  std::iota(left.begin(), left.end(), size_t{0});
  left = Keep(left, Least(left, excess), excess);
  if (limits.kl) {
    const std::vector<size_t> reach = Keep(left, *limits.kl, kl);
    if (!reach.empty()) left = Keep(reach, Least(reach, fetched), fetched);
  }
  const double lowest = Least(left, kl);
  left = Keep(left, lowest + kKlTolerance * std::abs(lowest), kl);
  return *std::min_element(left.begin(), left.end(), [&](size_t a, size_t b) {
    const PolicyCost &x = measured[a].cost, &y = measured[b].cost;
    return std::tuple(x.fetched_bytes, x.device_bytes, x.scored_bytes, a) <
           std::tuple(y.fetched_bytes, y.device_bytes, y.scored_bytes, b);
  });
}

std::vector<size_t> ParetoFront(std::span<const MeasuredPolicy> measured) {
  std::vector<size_t> order(measured.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return std::tuple(measured[a].cost.fetched_bytes, measured[a].kl(), a) <
           std::tuple(measured[b].cost.fetched_bytes, measured[b].kl(), b);
  });
  std::vector<size_t> front;
  for (const size_t i : order) {
    if (front.empty() || measured[i].kl() < measured[front.back()].kl()) front.push_back(i);
  }
  return front;
}

}  // namespace tailor
