// What a selection must answer, written plainly: ALGORITHM §3.3-3.4 from the rows, and the bits
// that kernels.h, scores.h and select.h define from the index.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "kvstore/select/kernels.h"
#include "kvstore/select/key_codes.h"
#include "kvstore/select/select.h"
#include "tests/kvstore/select/sealed_pages.h"

namespace tailor {

inline constexpr Heads kHeads[] = {{3, 3, 64}, {2, 5, 128}, {1, 1, 64}};

// The published rule: the mean query, no second look.
inline SelectParams Published(int32_t channels, int32_t top_k, int32_t sink) {
  return {channels, top_k, sink, GroupRule::kMean, 0};
}

inline std::vector<double> Means(std::span<const float> q, int32_t head, const Heads& heads) {
  std::vector<double> mean(heads.head_dim, 0.0);
  for (int32_t g = 0; g < heads.group; ++g) {
    for (int32_t c = 0; c < heads.head_dim; ++c) {
      mean[c] += double{q[(head * heads.group + g) * heads.head_dim + c]} / heads.group;
    }
  }
  return mean;
}

// Positions of the `count` largest, ascending; ties to the lower.
inline std::vector<int32_t> Largest(const std::vector<double>& values, size_t count,
                                    int32_t first) {
  std::vector<int32_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return values[a] > values[b]; });
  order.resize(std::min(count, order.size()));
  std::sort(order.begin(), order.end());
  for (int32_t& position : order) position += first;
  return order;
}

// §3.3 from the rows: importance[c] = |q_mean[c]| * max over stored tokens of |K[t][c]|.
inline std::vector<int32_t> OracleChannels(const SealedPages& pages, int32_t layer, int32_t head,
                                           const std::vector<double>& q_mean, int32_t count) {
  std::vector<double> importance(q_mean.size());
  for (int32_t c = 0; c < static_cast<int32_t>(q_mean.size()); ++c) {
    double kmax = 0;
    for (int32_t t = 0; t < pages.tokens(); ++t) {
      kmax = std::max(kmax, std::abs(double{pages.Key(layer, head, t, c)}));
    }
    importance[c] = std::abs(q_mean[c]) * kmax;
  }
  return Largest(importance, static_cast<size_t>(count), 0);
}

// §3.4 from the rows: score[t] = sum over C of q_mean[c] * K[t][c], for tokens from `sink` on.
inline std::vector<double> OracleScores(const SealedPages& pages, int32_t layer, int32_t head,
                                        const std::vector<double>& q_mean,
                                        const std::vector<int32_t>& channels, int32_t sink) {
  std::vector<double> scores;
  for (int32_t t = sink; t < pages.tokens(); ++t) {
    double score = 0;
    for (const int32_t c : channels) score += q_mean[c] * pages.Key(layer, head, t, c);
    scores.push_back(score);
  }
  return scores;
}

inline SelectInput Input(const SealedPages& pages, int32_t layer, std::span<const float> q,
                         const SelectParams& params) {
  return {.pool = &pages.view,
          .layer = layer,
          .sealed_pages = pages.page_list,
          .kmax = &pages.kmax,
          .q = q,
          .params = params};
}

inline std::vector<int32_t> TokensOf(const Selection& selection, int32_t head) {
  const auto first = selection.tokens.begin() + head * selection.count;
  return {first, first + selection.count};
}

inline void ExpectRowsOfTokens(const SealedPages& pages, int32_t layer,
                               const Selection& selection) {
  const PoolShape& shape = pages.view.shape();
  const size_t row = 2 * static_cast<size_t>(shape.head_dim);
  ASSERT_EQ(selection.rows.size(), shape.kv_heads * selection.count * row);
  for (int32_t head = 0; head < shape.kv_heads; ++head) {
    for (int32_t i = 0; i < selection.count; ++i) {
      const size_t at = static_cast<size_t>(head * selection.count + i);
      ASSERT_EQ(std::memcmp(selection.rows.data() + at * row,
                            pages.Row(layer, head, selection.tokens[at]), row * 2),
                0)
          << "head " << head << " token " << selection.tokens[at];
    }
  }
}
inline void FillNormally(SealedPages& pages, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  pages.Fill([&](int32_t, int32_t, int32_t, int32_t c) {
    return normal(random) * (c % 11 == 0 ? 8.0f : 1.0f);
  });
}

inline std::vector<float> NormalQuery(const Heads& heads, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> q(heads.kv_heads * heads.group * heads.head_dim);
  for (float& value : q) value = normal(random);
  return q;
}
// kernels.h's score of one query, operation by operation; q: [head_dim], as it is scored.
inline std::vector<float> IndexScores(const SealedPages& pages, int32_t rank, int32_t head,
                                      std::span<const float> q,
                                      const std::vector<int32_t>& channels) {
  const auto limit = static_cast<float>(WeightLimit(static_cast<int32_t>(channels.size())));
  const size_t padded = (channels.size() + kLanes - 1) / kLanes * kLanes;
  std::vector<float> scores;
  for (const PageId page : pages.page_list) {
    const float* scale = pages.view.IndexScale(rank, head, page);
    const float* min = pages.view.IndexMin(rank, head, page);
    std::vector<float> q_of(padded, 0.0f), scale_of(padded, 0.0f), min_of(padded, 0.0f);
    float largest = 0;
    for (size_t i = 0; i < channels.size(); ++i) {
      q_of[i] = q[channels[i]], scale_of[i] = scale[channels[i]], min_of[i] = min[channels[i]];
      largest = std::max(largest, std::abs(q_of[i] * scale_of[i]));
    }
    std::vector<int8_t> weights(padded);
    const QueryTerms terms = kSelectKernelsScalar.weigh(
        q_of.data(), scale_of.data(), min_of.data(), static_cast<int32_t>(padded),
        static_cast<int32_t>(limit), weights.data());
    EXPECT_EQ(terms.unit, largest / limit);
    for (int32_t t = 0; t < kPageTokens; ++t) {
      int32_t sum = 0;
      for (size_t i = 0; i < channels.size(); ++i) {
        sum +=
            weights[i] * CodeOf(pages.view.Index(rank, head, page) + channels[i] * kCodeBytes, t);
      }
      const volatile float product = terms.unit * static_cast<float>(sum);
      scores.push_back(product + terms.bias);
    }
  }
  return scores;
}

// §3.3: the channels of largest sum over the group of |q_g[c]| times kmax, all in fp32.
inline std::vector<int32_t> GroupChannels(const SealedPages& pages, int32_t rank, int32_t head,
                                          std::span<const float> group, int32_t count) {
  const size_t d = pages.view.shape().head_dim;
  std::vector<double> importance;
  for (size_t c = 0; c < d; ++c) {
    float magnitude = 0;
    for (size_t i = c; i < group.size(); i += d) magnitude += std::abs(group[i]);
    importance.push_back(magnitude * pages.kmax.Of(rank, head)[c]);
  }
  return Largest(importance, static_cast<size_t>(count), 0);
}

// A head's answer from the definitions of scores.h and select.h, written plainly.
inline std::vector<int32_t> PlainHeadsAnswer(const SealedPages& pages, int32_t layer, int32_t head,
                                             std::span<const float> group,
                                             const SelectParams& params) {
  const size_t d = pages.view.shape().head_dim;
  const auto channels = GroupChannels(pages, layer - 1, head, group, params.channels);
  const float factor = 1.44269504f / std::sqrt(static_cast<float>(d));
  std::vector<float> total(pages.tokens(), 0.0f);
  std::vector<std::vector<float>> queries;
  std::vector<ScoreShare> shares;
  for (size_t g = 0; g < group.size() / d; ++g) {
    std::vector<float>& q =
        queries.emplace_back(group.begin() + g * d, group.begin() + (g + 1) * d);
    for (float& value : q) value *= factor;
    std::vector<float> scores = IndexScores(pages, layer - 1, head, q, channels);
    shares.push_back(kSelectKernelsScalar.exponents(scores.data(), pages.tokens()));
    kSelectKernelsScalar.add(scores.data(), shares[g].factor, total.data(), pages.tokens());
  }
  const std::vector<int32_t> first =
      Largest({total.begin() + params.sink_tokens, total.end()},
              static_cast<size_t>(params.top_k + params.rescore_extra), params.sink_tokens);
  if (params.rescore_extra == 0) return first;
  std::vector<double> exact;
  for (const int32_t t : first) {
    float score = 0;
    for (size_t g = 0; g < queries.size(); ++g) {
      const float dot = kSelectKernelsScalar.dot(queries[g].data(), pages.Row(layer, head, t),
                                                 static_cast<int32_t>(d));
      const volatile float share = Exp2(dot - shares[g].largest) * shares[g].factor;
      score += share;
    }
    exact.push_back(score);
  }
  std::vector<int32_t> chosen = Largest(exact, static_cast<size_t>(params.top_k), 0);
  for (int32_t& position : chosen) position = first[position];
  return chosen;
}

}  // namespace tailor
