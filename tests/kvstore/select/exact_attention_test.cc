// Against one softmax in double over all candidates at once.
#include "kvstore/select/exact_attention.h"

#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <random>

#include "tests/kvstore/select/sealed_pages.h"

namespace tailor {
namespace {

constexpr int32_t kLayer = 1;

std::vector<float> RandomQuery(const Heads& heads, float size, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0.0f, size);
  std::vector<float> q(static_cast<size_t>(heads.group) * heads.head_dim);
  for (float& value : q) value = normal(random);
  return q;
}

struct Truth {
  double lse;
  std::vector<double> out;
};

Truth TruthOf(const SealedPages& pages, int32_t head, std::span<const float> q, int32_t sink) {
  const auto d = static_cast<int32_t>(q.size());
  std::vector<double> scores;
  double largest = -INFINITY, sum = 0;
  for (int32_t t = sink; t < pages.tokens(); ++t) {
    double score = 0;
    for (int32_t c = 0; c < d; ++c) score += double{q[c]} * pages.Key(kLayer, head, t, c);
    scores.push_back(score / std::sqrt(double(d)));
    largest = std::max(largest, scores.back());
  }
  Truth truth{-INFINITY, std::vector<double>(d, 0.0)};
  for (const double score : scores) sum += std::exp(score - largest);
  if (!scores.empty()) truth.lse = largest + std::log(sum);
  for (size_t i = 0; i < scores.size(); ++i) {
    const BFloat16* value = pages.Row(kLayer, head, sink + static_cast<int32_t>(i)) + d;
    for (int32_t c = 0; c < d; ++c) {
      truth.out[c] += std::exp(scores[i] - truth.lse) * ToFloat(value[c]);
    }
  }
  return truth;
}

class ExactAttentionTest : public ::testing::TestWithParam<std::tuple<Heads, int, int>> {};

TEST_P(ExactAttentionTest, EqualsOneSoftmaxOverAllCandidates) {
  const auto& [heads, page_count, sink] = GetParam();
  SealedPages pages(heads, page_count);
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  pages.Fill([&](int, int, int, int) { return normal(random); });
  const std::vector<float> q = RandomQuery(heads, 2.0f, 5);
  ExactScratch scratch;
  ExactOutput got;
  const int32_t head = heads.kv_heads - 1, d = heads.head_dim;
  ASSERT_TRUE(AttendExactly({.pool = &pages.view,
                             .layer = kLayer,
                             .kv_head = head,
                             .sealed_pages = pages.page_list,
                             .sink_tokens = sink,
                             .q = q},
                            scratch, &got)
                  .ok());
  for (int32_t h = 0; h < heads.group; ++h) {
    const std::span<const float> query(q.data() + h * d, d);
    const Truth truth = TruthOf(pages, head, query, sink);
    if (std::isinf(truth.lse)) {
      EXPECT_EQ(got.lse[h], -INFINITY);
      EXPECT_EQ(got.out[h * d], 0.0f);
      continue;
    }
    // A score is a dot product of d terms; its error shifts the sum, and each weight, by as much.
    double q_norm = 0;
    for (const float value : query) q_norm += double{value} * value;
    const double largest_key_norm = 2 * std::sqrt(double(d));
    const double score_error =
        d * FLT_EPSILON * std::sqrt(q_norm) * largest_key_norm / std::sqrt(double(d));
    EXPECT_NEAR(got.lse[h], truth.lse, score_error + FLT_EPSILON * std::abs(truth.lse));
    for (int32_t c = 0; c < d; ++c) {
      EXPECT_NEAR(got.out[h * d + c], truth.out[c], 2 * score_error * pages.tokens()) << "head " << h;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(ShapesAndSinks, ExactAttentionTest,
                         ::testing::Combine(::testing::Values(Heads{2, 3, 64}, Heads{1, 1, 16},
                                                              Heads{3, 4, 128}),
                                            ::testing::Values(0, 1, 5),
                                            ::testing::Values(0, 8, kPageTokens)));

TEST(ExactAttentionTest, ADamagedRowIsDataLoss) {
  SealedPages pages({1, 1, 64}, 2);
  pages.Fill([](int, int, int t, int c) { return static_cast<float>(t + c) * 0.01f; });
  pages.Row(kLayer, 0, 200)[3].bits ^= 1;
  const std::vector<float> q(64, 0.1f);
  ExactScratch scratch;
  ExactOutput out;
  const absl::Status status = AttendExactly({.pool = &pages.view,
                                             .layer = kLayer,
                                             .kv_head = 0,
                                             .sealed_pages = pages.page_list,
                                             .sink_tokens = 8,
                                             .q = q},
                                            scratch, &out);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(std::string(status.message()).find("token 200"), std::string::npos);
}

}  // namespace
}  // namespace tailor
