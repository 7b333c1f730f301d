// Over a tiny model of random weights: what must hold whatever the weights are.
#include "worker/quality/text_quality.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "tests/support/tiny_model.h"

namespace tailor {
namespace {

using ::testing::HasSubstr;

constexpr TextOptions kOptions = {.context_tokens = 640, .decode_tokens = 6, .windows = 1};

absl::Status NoProgress(const std::string&) { return absl::OkStatus(); }

std::vector<TokenId> RandomIds(int64_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<TokenId> ids(count);
  for (TokenId& id : ids) id = 16 + static_cast<TokenId>(random() % 256);
  return ids;
}

class TextQualityTest : public ::testing::Test {
 protected:
  TextQualityTest() { WriteTinyModel(dir_ / "tiny.gguf", {.embedding_scale = 0.1f}); }

  std::unique_ptr<MeasuredModel> Load(int32_t top_k = 0, QueryMode query = QueryMode::kExact) {
    auto file = *ModelFile::Open(dir_ / "tiny.gguf");
    LayerPolicy policy =
        LayerPolicy::Default(file->name(), file->fingerprint(), file->hyperparameters());
    if (top_k > 0) policy.select.top_k = top_k;
    policy.query = query;
    auto model = MeasuredModel::Create(
        std::move(file), policy,
        {.threads = 1, .context_tokens = 2048, .arena_bytes = int64_t{64} << 20});
    EXPECT_TRUE(model.ok()) << model.status();
    return *std::move(model);
  }
  static std::vector<WindowQuality> Measure(MeasuredModel& model,
                                            const std::vector<std::string>& names,
                                            const TextOptions& options = kOptions) {
    std::vector<const Method*> methods;
    for (const std::string& name : names) methods.push_back(*FindMethod(name));
    auto measured =
        MeasureWindow(model, methods, RandomIds(options.WindowTokens(), 3), options, 1, NoProgress);
    EXPECT_TRUE(measured.ok()) << measured.status();
    return *measured;
  }

  ScratchDir dir_;
};

TEST_F(TextQualityTest, FullAgainstFullIsNothingApart) {
  const auto model = Load();
  const WindowQuality full = Measure(*model, {"full"})[0];
  EXPECT_EQ(full.tokens, kOptions.decode_tokens);
  EXPECT_EQ(full.agreements, full.tokens);
  EXPECT_EQ(full.kl, 0);
  EXPECT_EQ(full.nll, full.nll_full);
}

TEST_F(TextQualityTest, AHybridThatFetchesEveryRowRecallsAll) {
  const auto model = Load(/*top_k=*/kMaxTopK);
  const WindowQuality hybrid = Measure(*model, {"hybrid"})[0];
  for (size_t layer = 1; layer < hybrid.layers.size(); ++layer) {
    EXPECT_GT(hybrid.layers[layer].recall_worst, 1 - 1e-4) << layer;
    EXPECT_LT(hybrid.layers[layer].mean_error(), 1e-4) << layer;
  }
}

TEST_F(TextQualityTest, TheOracleRecallsMoreThanAnyOtherMethodAndRandomLess) {
  const auto model = Load(/*top_k=*/32);
  // One step: all methods come to the first sparse layer with the same query. Below it their
  // queries differ by what they fetched above.
  const TextOptions one = {.context_tokens = 640, .decode_tokens = 1, .windows = 1};
  const auto all = Measure(*model, {"oracle", "hybrid", "quest", "random", "window"}, one);
  for (size_t m = 1; m < all.size(); ++m) {
    EXPECT_GE(all[0].layers[1].mean_recall(), all[m].layers[1].mean_recall() - 1e-6) << m;
  }
  EXPECT_GT(all[3].layers[1].mean_recall(), all[4].layers[1].mean_recall()) << "rows add mass";
  const auto many = Measure(*model, {"oracle", "random"});
  for (size_t layer = 1; layer < many[0].layers.size(); ++layer) {
    EXPECT_GT(many[0].layers[layer].mean_recall(), many[1].layers[layer].mean_recall()) << layer;
  }
}

TEST_F(TextQualityTest, ControlsChooseByTheExactQueryWhateverThePolicyPredicts) {
  const auto exact = Load(32), predicted = Load(32, QueryMode::kPredicted);
  const auto want = Measure(*exact, {"oracle", "quest", "random", "hybrid"}),
             got = Measure(*predicted, {"oracle", "quest", "random", "hybrid"});
  for (int m = 0; m < 3; ++m) EXPECT_EQ(got[m].ToJson(), want[m].ToJson()) << m;
  EXPECT_NE(got[3].ToJson(), want[3].ToJson()) << "the policy itself does predict";
}

TEST_F(TextQualityTest, QuantizedAttendsToAllTokensWithAnErrorInEveryLayer) {
  const auto model = Load();
  const WindowQuality quantized = Measure(*model, {"quantized"})[0];
  ASSERT_EQ(quantized.layers.size(), 4u);
  for (const LayerQuality& layer : quantized.layers) {
    EXPECT_FALSE(layer.has_recall());
    EXPECT_EQ(layer.steps, kOptions.decode_tokens);
    EXPECT_GT(layer.mean_error(), 0);
  }
  EXPECT_GT(quantized.kl, 0);
}

std::vector<double> Softmax(std::span<const float> logits) {
  double sum = 0;
  std::vector<double> p;
  for (const float l : logits) p.push_back(std::exp(double{l}));
  for (const double v : p) sum += v;
  for (double& v : p) v /= sum;
  return p;
}

// The definition, from two sequences stepped by hand.
TEST_F(TextQualityTest, KlAndPerplexityAreThoseOfTheNextTokensDistributions) {
  const auto model = Load(/*top_k=*/32);
  const WindowQuality got = Measure(*model, {"window"})[0];
  const auto ids = RandomIds(kOptions.WindowTokens(), 3);
  const int64_t total = kOptions.context_tokens + kOptions.decode_tokens;
  const auto prompt = *model->Open("p", CacheMode::kHybrid, total);
  ASSERT_TRUE(
      model->RunPrefill({ids.begin(), ids.begin() + kOptions.context_tokens}, *prompt).ok());
  auto full = *MethodRun::Start(*model, FullMethod(), *prompt, "f", total, 1);
  auto window = *MethodRun::Start(*model, **FindMethod("window"), *prompt, "w", total, 1);
  double kl = 0, nll = 0, nll_full = 0;
  for (int64_t i = kOptions.context_tokens; i < total; ++i) {
    ASSERT_TRUE(full.Step(ids[i]).ok());
    const auto p = Softmax(model->logits());
    ASSERT_TRUE(window.Step(ids[i]).ok());
    const auto q = Softmax(model->logits());
    for (size_t v = 0; v < p.size(); ++v) kl += p[v] * std::log(p[v] / q[v]);
    nll -= std::log(q[ids[i + 1]]);
    nll_full -= std::log(p[ids[i + 1]]);
  }
  EXPECT_GT(kl, 1e-6);
  EXPECT_NEAR(got.kl, kl, 1e-9);
  EXPECT_NEAR(got.nll, nll, 1e-9);
  EXPECT_NEAR(got.nll_full, nll_full, 1e-9);
}

TEST_F(TextQualityTest, AWindowThatIsStoppedGivesTheCallersStatus) {
  const auto model = Load();
  const Method* method = *FindMethod("hybrid");
  const auto stopped = MeasureWindow(
      *model, std::span(&method, 1), RandomIds(kOptions.WindowTokens(), 3), kOptions, 1,
      [](const std::string& what) {
        return what == "token 3 of 6" ? absl::CancelledError("now") : absl::OkStatus();
      });
  EXPECT_EQ(stopped.status(), absl::CancelledError("now"));
}

TEST(CutWindowsTest, WindowsAreSpreadAndDoNotOverlap) {
  const TextOptions options = {.context_tokens = 6, .decode_tokens = 2, .windows = 2};
  const auto ids = RandomIds(30, 1);
  const auto windows = CutWindows(ids, options, std::nullopt);
  ASSERT_TRUE(windows.ok());
  ASSERT_EQ(windows->size(), 2u);
  EXPECT_EQ((*windows)[0], std::vector<TokenId>(ids.begin(), ids.begin() + 9));
  EXPECT_EQ((*windows)[1], std::vector<TokenId>(ids.begin() + 15, ids.begin() + 24));
  EXPECT_THAT(std::string(CutWindows(std::span(ids).first(17), options, {}).status().message()),
              HasSubstr("text has 17 tokens, 2 windows of 9 need 18"));
}

TEST(CutWindowsTest, EveryWindowBeginsWithBosWhereTheModelExpectsOne) {
  const TextOptions options = {.context_tokens = 6, .decode_tokens = 2, .windows = 2};
  const auto windows = CutWindows(RandomIds(16, 1), options, TokenId{1});
  ASSERT_TRUE(windows.ok()) << windows.status();
  for (const auto& window : *windows) {
    EXPECT_EQ(window[0], 1);
    EXPECT_EQ(static_cast<int64_t>(window.size()), options.WindowTokens());
  }
}

TEST(WindowQualityTest, ARecordIsReadBackAsItWasWritten) {
  WindowQuality window;
  window.tokens = 128;
  window.agreements = 120;
  window.kl = 1.0 / 3;
  window.nll_full = 400.1;
  window.nll = 401.7;
  window.layers = {
      {.recall_sum = 0, .recall_worst = 1, .error_sum = 0.1, .heads = 0, .steps = 4},
      {.recall_sum = 3.3, .recall_worst = 0.7, .error_sum = 0.2, .heads = 4, .steps = 4}};
  const auto back = WindowQuality::FromJson(nlohmann::json::parse(window.ToJson().dump()));
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(back->ToJson(), window.ToJson());
  EXPECT_EQ(back->kl, window.kl);
  EXPECT_FALSE(WindowQuality::FromJson({{"tokens", "many"}}).ok());
  EXPECT_FALSE(WindowQuality::FromJson(nlohmann::json::object()).ok());
}

TEST(TextSummaryTest, WindowsAreTheIndependentValues) {
  WindowQuality a, b;
  a.tokens = b.tokens = 10;
  a.kl = 1;
  b.kl = 3;
  a.agreements = 10;
  b.agreements = 8;
  a.nll_full = b.nll_full = 20;
  a.nll = b.nll = 21;
  const TextSummary summary = Summarise(std::vector<WindowQuality>{a, b});
  EXPECT_EQ(summary.tokens, 20);
  EXPECT_DOUBLE_EQ(summary.kl.mean, 0.2);
  EXPECT_DOUBLE_EQ(*summary.kl.standard_error, 0.1);  // values 0.1 and 0.3
  EXPECT_DOUBLE_EQ(summary.agreement.mean, 0.9);
  EXPECT_DOUBLE_EQ(summary.perplexity_full.mean, std::exp(2.0));
  EXPECT_DOUBLE_EQ(summary.perplexity_ratio.mean, std::exp(0.1));
  EXPECT_DOUBLE_EQ(*summary.perplexity_ratio.standard_error, 0);
}

}  // namespace
}  // namespace tailor
