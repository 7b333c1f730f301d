// The forward pass against other ones on the same GGUF: PyTorch + transformers for the default
// model (tests/golden/logits/README.md), NumPy for a Qwen2.5 (tests/golden/qwen_logits/README.md).
// Needs the model files: TAILOR_TEST_MODEL, TAILOR_TEST_QWEN_MODEL.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "worker/quality/measured_model.h"

namespace tailor {
namespace {

using nlohmann::json;

// Sanitizers are ten times slower, and see the same code in the shorter prompts.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr size_t kLongestPrompt = 200;
#else
constexpr size_t kLongestPrompt = 5000;
#endif

struct Golden {
  const char* model_variable;
  const char* folder;  // of tests/golden
};
const Golden kGoldens[] = {{"TAILOR_TEST_MODEL", "logits"},
                           {"TAILOR_TEST_QWEN_MODEL", "qwen_logits"}};

class LogitsGoldenTest : public ::testing::TestWithParam<Golden> {
 protected:
  void SetUp() override {
    const char* path = std::getenv(GetParam().model_variable);
    if (path == nullptr) GTEST_SKIP() << GetParam().model_variable << " does not name a model";
    std::ifstream golden(Folder() + "golden.json");
    golden_ = json::parse(golden);
    auto bench = MeasuredModel::Load(
        path, "", {.threads = 0, .context_tokens = 4200, .arena_bytes = int64_t{512} << 20});
    ASSERT_TRUE(bench.ok()) << bench.status();
    bench_ = *std::move(bench);
    if (bench_->model.shape.vocab != golden_["model"]["vocab"].get<int>()) {
      GTEST_SKIP() << GetParam().model_variable << " is another model than the goldens'";
    }
  }

  static std::string Folder() {
    return std::string(TAILOR_SOURCE_DIR) + "/tests/golden/" + GetParam().folder + "/";
  }

  // The reference's logits at the last position: all, or every `stride`th.
  std::vector<float> LastLogits(const json& prompt, size_t* stride) const {
    *stride = 61;
    if (prompt.contains("last_every_61st")) return prompt["last_every_61st"];
    *stride = 1;
    const int64_t vocab = golden_["model"]["vocab"], row = prompt["last_logits_row"];
    std::vector<float> logits(vocab);
    std::ifstream file(Folder() + "last_logits.bin", std::ios::binary);
    file.seekg(row * vocab * 4);
    file.read(reinterpret_cast<char*>(logits.data()), vocab * 4);
    EXPECT_TRUE(file.good());
    return logits;
  }

  std::unique_ptr<MeasuredModel> bench_;
  json golden_;
};
INSTANTIATE_TEST_SUITE_P(Model, LogitsGoldenTest, ::testing::ValuesIn(kGoldens),
                         [](const auto& info) { return std::string(info.param.folder); });

std::vector<float> Every(size_t stride, std::span<const float> all) {
  std::vector<float> some;
  for (size_t i = 0; i < all.size(); i += stride) some.push_back(all[i]);
  return some;
}

double Cosine(std::span<const float> a, std::span<const float> b) {
  double dot = 0, aa = 0, bb = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    dot += double{a[i]} * b[i];
    aa += double{a[i]} * a[i];
    bb += double{b[i]} * b[i];
  }
  return dot / std::sqrt(aa * bb);
}

// The goldens' largest logits at one position, and the norm of all, against ours.
void ExpectSampled(const json& sampled, std::span<const float> logits) {
  double norm = 0, worst = 0;
  for (const float l : logits) norm += double{l} * l;
  norm = std::sqrt(norm);
  EXPECT_NEAR(norm / sampled["norm"].get<double>(), 1.0, 1e-2) << sampled["position"];
  for (size_t i = 0; i < sampled["top_ids"].size(); ++i) {
    const float ours = logits[sampled["top_ids"][i].get<int>()];
    worst = std::max(worst, std::abs(ours - sampled["top_logits"][i].get<double>()));
  }
  // KV rows are rounded to bf16, 2^-9 relative: what reaches a logit stays well below its size.
  EXPECT_LT(worst, 0.02 * std::abs(sampled["top_logits"][0].get<double>()))
      << "position " << sampled["position"];
}

TEST_P(LogitsGoldenTest, PrefillGivesTheReferencesLogitsOnEveryPrompt) {
  for (const json& prompt : golden_["prompts"]) {
    const std::string name = prompt["name"].get<std::string>();
    const auto ids = prompt["ids"].get<std::vector<TokenId>>();
    if (ids.size() > kLongestPrompt) continue;
    auto cache = bench_->Open(name, CacheMode::kFull, static_cast<int64_t>(ids.size()));
    ASSERT_TRUE(cache.ok()) << cache.status();
    // Piece by piece, so that the logits of every sampled position come out.
    for (const json& sampled : prompt["sampled"]) {
      const int64_t from = (*cache)->tokens(), to = sampled["position"].get<int64_t>() + 1;
      ASSERT_TRUE(bench_->RunPrefill({ids.begin() + from, ids.begin() + to}, **cache).ok());
      ExpectSampled(sampled, bench_->logits());
    }
    ASSERT_EQ((*cache)->tokens(), static_cast<int64_t>(ids.size()));
    size_t stride = 0;
    const std::vector<float> want = LastLogits(prompt, &stride);
    const double cosine = Cosine(Every(stride, bench_->logits()), want);
    EXPECT_GE(cosine, 0.9999) << name;
    RecordProperty("one_minus_cosine_" + name, std::to_string(1 - cosine));
    std::printf("%s: 1 - cosine = %.2e\n", name.c_str(), 1 - cosine);
    ASSERT_TRUE(bench_->store->CloseSequence((*cache)->handle()).ok());
  }
}

TEST_P(LogitsGoldenTest, GreedyTokensAreTheReferencesWhereTheMarginAllows) {
  constexpr double kSafeMargin = 0.25;  // far above what rounding KV rows to bf16 moves a logit
  for (const json& prompt : golden_["prompts"]) {
    const auto ids = prompt["ids"].get<std::vector<TokenId>>();
    if (ids.size() > kLongestPrompt) continue;
    const auto want = prompt["greedy"]["ids"].get<std::vector<TokenId>>();
    const auto margins = prompt["greedy"]["margins"].get<std::vector<double>>();
    const int64_t total = static_cast<int64_t>(ids.size() + want.size());
    auto cache = bench_->Open(prompt["name"].get<std::string>(), CacheMode::kFull, total);
    ASSERT_TRUE(cache.ok()) << cache.status();
    ASSERT_TRUE(bench_->RunPrefill(ids, **cache).ok());
    for (size_t i = 0; i < want.size(); ++i) {
      const auto logits = bench_->logits();
      const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
      if (margins[i] > kSafeMargin) {
        EXPECT_EQ(best, want[i]) << prompt["name"] << " token " << i;
      }
      if (i + 1 == want.size()) break;
      ASSERT_TRUE(bench_->Step(want[i], bench_->policy, **cache).ok());
    }
    ASSERT_TRUE(bench_->store->CloseSequence((*cache)->handle()).ok());
  }
}

}  // namespace
}  // namespace tailor
