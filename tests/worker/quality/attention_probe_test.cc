// The probe against attention in double over the same rows.
#include "worker/quality/attention_probe.h"

#include <gtest/gtest.h>

#include "tests/worker/quality/attention_case.h"
#include "worker/quality/choosing_fetcher.h"

namespace tailor {
namespace {

constexpr int64_t kTokens = 700;  // four pages are sealed: 512 tokens, 188 in the window
constexpr int64_t kSealedTokens = 512;

LlamaHyperparameters TestShape() {
  LlamaHyperparameters shape;
  shape.layers = 3;
  shape.q_heads = kQHeads;
  shape.kv_heads = kHeads;
  shape.head_dim = kHeadDim;
  return shape;
}

// Passes on to a probe and remembers what was fetched.
class Listener final : public AttendProbe {
 public:
  explicit Listener(AttentionProbe* probe) : probe_(probe), tokens(3), count(3, 0) {}
  MatrixView<float> lse() override { return probe_->lse(); }
  void OnAttend(int32_t layer, const PagedRows& rows, const AttendCall& call) override {
    probe_->OnAttend(layer, rows, call);
    tokens[layer].assign(call.fetched.tokens.begin(), call.fetched.tokens.end());
    count[layer] = call.fetched.count;
    out[layer].assign(call.out.data, call.out.data + call.out.cols);
  }

 private:
  AttentionProbe* probe_;

 public:
  std::vector<std::vector<int32_t>> tokens;
  std::vector<int32_t> count;
  std::vector<float> out[3];
};

class AttentionProbeTest : public ::testing::Test {
 protected:
  // One decode step at kTokens with `q`, heard by probe_.
  void Decode(SequenceCache& cache, const HostMatrix& q) {
    cache.set_probe(&listener_);
    DrivenSequence sequence(rig_, cache);
    ASSERT_TRUE(sequence.PrefillTo(kTokens).ok());
    ASSERT_TRUE(cache.Reserve(kTokens + 1).ok());
    ASSERT_TRUE(sequence.Decode(q).ok());
  }

  void ExpectWhatDoubleSays(const HostMatrix& q, int32_t layer) {
    const auto masses = ExactMasses(q, layer, kTokens + 1);
    const auto attended = Attended(rig_.policy, listener_.tokens[layer], listener_.count[layer],
                                   kSealedTokens, kTokens + 1);
    double sum = 0, worst = 1;
    for (int32_t head = 0; head < kQHeads; ++head) {
      double recall = 0;
      for (const int64_t t : attended[head / (kQHeads / kHeads)]) recall += masses[head][t];
      sum += recall;
      worst = std::min(worst, recall);
    }
    const LayerQuality& got = probe_.layers()[layer];
    ASSERT_EQ(got.heads, kQHeads);
    ASSERT_EQ(got.steps, 1);
    // fp32 sums of 700 terms: 700 * 2^-24 = 4e-5 of a recall below one.
    EXPECT_NEAR(got.mean_recall(), sum / kQHeads, 1e-4);
    EXPECT_NEAR(got.recall_worst, worst, 1e-4);
    const auto all =
        ExactOutput(masses, layer, {Positions(0, kTokens + 1), Positions(0, kTokens + 1)});
    const auto some = ExactOutput(masses, layer, attended);
    double error = 0, norm = 0;
    for (size_t i = 0; i < all.size(); ++i) {
      error += (some[i] - all[i]) * (some[i] - all[i]);
      norm += all[i] * all[i];
    }
    EXPECT_NEAR(got.mean_error(), std::sqrt(error / norm), 1e-3);
  }

  CacheRig rig_;
  AttentionProbe probe_{rig_.ops.get(), rig_.policy, CacheMode::kHybrid, TestShape()};
  Listener listener_{&probe_};
};

TEST_F(AttentionProbeTest, RecallAndErrorOfASelectionAreThoseOfDouble) {
  auto cache = rig_.Open("a", CacheMode::kHybrid);
  ASSERT_TRUE(cache.ok());
  const HostMatrix q = TestQuery();
  Decode(**cache, q);
  for (const int32_t layer : {1, 2}) ExpectWhatDoubleSays(q, layer);
}

TEST_F(AttentionProbeTest, ALayerThatFetchesNothingIsMeasuredToo) {
  auto cache = rig_.Open("a", CacheMode::kHybrid);
  ASSERT_TRUE(cache.ok());
  SelectParams params = rig_.policy.select;
  params.top_k = 0;
  (*cache)->set_fetcher(MakeRandomFetcher(rig_.ops.get(), params, kHeads, 1));
  const HostMatrix q = TestQuery();
  Decode(**cache, q);
  ASSERT_EQ(listener_.count[1], 0);
  for (const int32_t layer : {1, 2}) ExpectWhatDoubleSays(q, layer);
  EXPECT_LT(probe_.layers()[1].mean_recall(), 0.9);
}

// A query along one far key: nearly all its mass is there, so a window without it has nearly none.
TEST_F(AttentionProbeTest, APlantedNeedleIsAllOrNothing) {
  HostMatrix q(1, kQHeads * kHeadDim);
  for (int32_t head = 0; head < kQHeads; ++head) {
    const auto needle = KnownRow(1, head / (kQHeads / kHeads), 300);
    for (int32_t c = 0; c < kHeadDim; ++c)
      q.view()(0, head * kHeadDim + c) = 8 * ToFloat(needle[c]);
  }
  auto cache = rig_.Open("oracle", CacheMode::kHybrid);
  ASSERT_TRUE(cache.ok());
  SelectParams params = rig_.policy.select;
  params.top_k = 1;
  (*cache)->set_fetcher(MakeOracleFetcher(rig_.ops.get(), params, **cache));
  Decode(**cache, q);
  for (int32_t head = 0; head < kHeads; ++head) EXPECT_EQ(listener_.tokens[1][head], 300);
  EXPECT_GT(probe_.layers()[1].mean_recall(), 0.9);
  ExpectWhatDoubleSays(q, 1);
}

TEST_F(AttentionProbeTest, AQuantizedLayerHasAnErrorAndNoRecall) {
  auto cache = rig_.Open("a", CacheMode::kHybrid);
  ASSERT_TRUE(cache.ok());
  Decode(**cache, TestQuery());
  const LayerQuality& quantized = probe_.layers()[0];
  EXPECT_FALSE(quantized.has_recall());
  EXPECT_EQ(quantized.steps, 1);
  EXPECT_GT(quantized.mean_error(), 1e-3) << "two bits are not exact";
}

TEST_F(AttentionProbeTest, StepsBeforeAnythingLeftTheWindowAreNotCounted) {
  auto cache = rig_.Open("a", CacheMode::kHybrid);
  ASSERT_TRUE(cache.ok());
  (*cache)->set_probe(&probe_);
  DrivenSequence sequence(rig_, **cache);
  ASSERT_TRUE(sequence.PrefillTo(200).ok());
  ASSERT_TRUE((*cache)->Reserve(201).ok());
  ASSERT_TRUE(sequence.Decode(TestQuery()).ok());
  for (const LayerQuality& layer : probe_.layers()) EXPECT_EQ(layer.steps, 0);
}

}  // namespace
}  // namespace tailor
