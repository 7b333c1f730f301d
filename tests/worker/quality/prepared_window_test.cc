// A prepared window against MeasureWindow, which prefills and steps everything anew.
#include "worker/quality/prepared_window.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "tests/support/tiny_model.h"
#include "worker/quality/policy_choice.h"

namespace tailor {
namespace {

constexpr TextOptions kOptions = {.context_tokens = 640, .decode_tokens = 6, .windows = 1};
constexpr DensePreferenceOptions kScoring = {.last_queries = 4};

absl::Status NoProgress(const std::string&) { return absl::OkStatus(); }

std::vector<TokenId> Ids() {
  std::mt19937_64 random(3);
  std::vector<TokenId> ids(kOptions.WindowTokens());
  for (TokenId& id : ids) id = 16 + static_cast<TokenId>(random() % 256);
  return ids;
}

class PreparedWindowTest : public ::testing::Test {
 protected:
  PreparedWindowTest() { WriteTinyModel(dir_ / "tiny.gguf", {.embedding_scale = 0.1f}); }

  LayerPolicy Default() const {
    auto file = *ModelFile::Open(dir_ / "tiny.gguf");
    return LayerPolicy::Default(file->name(), file->fingerprint(), file->hyperparameters());
  }
  std::unique_ptr<MeasuredModel> Load(const LayerPolicy& policy) const {
    auto model = MeasuredModel::Create(
        *ModelFile::Open(dir_ / "tiny.gguf"), policy,
        {.threads = 1, .context_tokens = 2048, .arena_bytes = int64_t{64} << 20});
    EXPECT_TRUE(model.ok()) << model.status();
    return *std::move(model);
  }
  // One that any table may be measured on.
  std::unique_ptr<MeasuredModel> LoadAllSparse() const {
    LayerPolicy policy = Default();
    policy.quantized_layers.clear();
    return Load(policy);
  }

  ScratchDir dir_;
};

std::vector<LayerPolicy> SomePolicies(const LayerPolicy& base) {
  std::vector<LayerPolicy> policies(6, base);
  policies[1].select.top_k = 32;
  policies[2].quantized_layers = {1, 3};
  policies[2].bits = 4;
  policies[3].residual_tokens = 300;
  policies[3].select.channels = 8;
  policies[4].layer_top_k = {1, 20, 60, 40};
  policies[5].quantized_layers.clear();
  policies[5].query = QueryMode::kPredicted;
  return policies;
}

TEST_F(PreparedWindowTest, EveryPolicyMeasuresAsItDoesByItself) {
  const auto shared = LoadAllSparse();
  const auto window = *PreparedWindow::Prepare(*shared, "w", Ids(), kOptions, kScoring, NoProgress);
  const Method* hybrid = *FindMethod("hybrid");
  for (const LayerPolicy& policy : SomePolicies(Default())) {
    SCOPED_TRACE(policy.Summary());
    const auto got = window->Measure(policy, NoProgress);
    ASSERT_TRUE(got.ok()) << got.status();
    const auto alone = Load(policy);
    const auto want = MeasureWindow(*alone, std::span(&hybrid, 1), Ids(), kOptions, 1, NoProgress);
    ASSERT_TRUE(want.ok()) << want.status();
    EXPECT_EQ(got->ToJson(), (*want)[0].ToJson()) << "bit for bit";
  }
}

// Layer 0 has nobody to predict it: its own query is posted, and must come before layer 1's.
TEST_F(PreparedWindowTest, PredictionWorksWithASparseFirstLayer) {
  const auto model = LoadAllSparse();
  const auto window = *PreparedWindow::Prepare(*model, "w", Ids(), kOptions, kScoring, NoProgress);
  LayerPolicy policy = Default();
  policy.quantized_layers.clear();
  policy.select.top_k = kMaxTopK;  // all rows: whatever was predicted, every layer recalls all
  policy.query = QueryMode::kPredicted;
  const auto measured = window->Measure(policy, NoProgress);
  ASSERT_TRUE(measured.ok()) << measured.status();
  for (const LayerQuality& layer : measured->layers) EXPECT_GT(layer.recall_worst, 1 - 1e-4);
}

TEST_F(PreparedWindowTest, WhatWasMeasuredBeforeDoesNotMatter) {
  const auto model = LoadAllSparse();
  const auto window = *PreparedWindow::Prepare(*model, "w", Ids(), kOptions, kScoring, NoProgress);
  const auto policies = SomePolicies(Default());
  const auto first = window->Measure(policies[0], NoProgress);
  ASSERT_TRUE(window->Measure(policies[2], NoProgress).ok());
  const auto again = window->Measure(policies[0], NoProgress);
  ASSERT_TRUE(first.ok() && again.ok());
  EXPECT_EQ(first->ToJson(), again->ToJson());
}

TEST_F(PreparedWindowTest, BytesFetchedAreThoseThatTheCostStates) {
  const auto model = LoadAllSparse();
  const auto window = *PreparedWindow::Prepare(*model, "w", Ids(), kOptions, kScoring, NoProgress);
  for (const LayerPolicy& policy : SomePolicies(Default())) {
    SCOPED_TRACE(policy.Summary());
    ASSERT_TRUE(window->Measure(policy, NoProgress).ok());
    // 640 tokens have more candidates than any of these fetches.
    const PolicyCost cost = PolicyCost::Of(policy, model->pool.shape(), kOptions.context_tokens);
    EXPECT_EQ(window->bytes_fetched(), cost.fetched_bytes * kOptions.decode_tokens);
  }
}

TEST_F(PreparedWindowTest, EachLayerHasAScore) {
  const auto model = LoadAllSparse();
  const auto window = *PreparedWindow::Prepare(*model, "w", Ids(), kOptions, kScoring, NoProgress);
  ASSERT_EQ(window->scores().size(), 4u);
  for (const double score : window->scores()) {
    EXPECT_GT(score, 0);
    EXPECT_LE(score, 1 - kScoring.alpha + 1.0 / 646) << "an even row is the most there is";
  }
}

// The arena holds one window and its forks: without Close the next would find no room.
TEST_F(PreparedWindowTest, AClosedWindowGivesItsPagesBack) {
  LayerPolicy all_sparse = Default();
  all_sparse.quantized_layers.clear();
  auto file = *ModelFile::Open(dir_ / "tiny.gguf");
  const auto bytes = MeasuredModel::ArenaBytes(file->hyperparameters(), all_sparse,
                                               kOptions.WindowTokens(), kOptions.decode_tokens, 2);
  ASSERT_TRUE(bytes.ok());
  const auto model = *MeasuredModel::Create(
      std::move(file), all_sparse, {.threads = 1, .context_tokens = 2048, .arena_bytes = *bytes});
  for (int i = 0; i < 12; ++i) {
    const auto window = PreparedWindow::Prepare(*model, absl::StrCat("w", i), Ids(), kOptions,
                                                kScoring, NoProgress);
    ASSERT_TRUE(window.ok()) << i << ": " << window.status();
    for (const LayerPolicy& policy : SomePolicies(Default())) {
      ASSERT_TRUE((*window)->Measure(policy, NoProgress).ok()) << i << ": " << policy.Summary();
    }
    ASSERT_TRUE((*window)->Close().ok());
  }
}

TEST_F(PreparedWindowTest, ProgressThatRefusesEndsTheMeasurement) {
  const auto model = LoadAllSparse();
  const auto window = *PreparedWindow::Prepare(*model, "w", Ids(), kOptions, kScoring, NoProgress);
  const auto stopped = window->Measure(Default(), [](const std::string& what) {
    return what == "token 3 of 6" ? absl::CancelledError("now") : absl::OkStatus();
  });
  EXPECT_EQ(stopped.status(), absl::CancelledError("now"));
}

}  // namespace
}  // namespace tailor
