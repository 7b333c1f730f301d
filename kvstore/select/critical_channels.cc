#include "kvstore/select/critical_channels.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace tailor {

void GroupMean(std::span<const float> q, std::vector<float>* q_mean) {
  const size_t head_dim = q_mean->size(), group = q.size() / head_dim;
  std::fill(q_mean->begin(), q_mean->end(), 0.0f);
  for (size_t g = 0; g < group; ++g) {
    for (size_t c = 0; c < head_dim; ++c) (*q_mean)[c] += q[g * head_dim + c];
  }
  for (float& value : *q_mean) value /= static_cast<float>(group);
}

void GroupMagnitude(std::span<const float> q, std::vector<float>* magnitude) {
  const size_t head_dim = magnitude->size();
  std::fill(magnitude->begin(), magnitude->end(), 0.0f);
  for (size_t i = 0; i < q.size(); ++i) (*magnitude)[i % head_dim] += std::abs(q[i]);
}

void CriticalChannels(std::span<const float> q, std::span<const float> kmax, int32_t count,
                      std::vector<int32_t>* channels) {
  channels->resize(q.size());
  std::iota(channels->begin(), channels->end(), 0);
  const auto importance = [&](int32_t c) {
    const float value = std::abs(q[c]) * kmax[c];
    return value >= 0 ? value : -1.0f;  // NaN has no order; a query may hold any bits
  };
  std::partial_sort(channels->begin(), channels->begin() + count, channels->end(),
                    [&](int32_t a, int32_t b) {
                      const float ia = importance(a), ib = importance(b);
                      return ia != ib ? ia > ib : a < b;
                    });
  channels->resize(count);
  std::sort(channels->begin(), channels->end());
}

}  // namespace tailor
