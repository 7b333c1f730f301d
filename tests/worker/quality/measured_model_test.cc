#include "worker/quality/measured_model.h"

#include <gtest/gtest.h>

#include "tests/support/tiny_model.h"
#include "worker/quality/methods.h"

namespace tailor {
namespace {

// Many layers make a page large beside the arena's overhead, which would hide a page too few.
constexpr TinyModelOptions kDeep = {.layers = 12, .hidden = 256, .ffn_hidden = 64};

TEST(MeasuredModelTest, AnArenaHoldsThePromptAndTheForksItWasMadeFor) {
  ScratchDir dir;
  WriteTinyModel(dir / "tiny.gguf", kDeep);
  constexpr int64_t kForks = 9;
  for (const auto& [prompt_tokens, decoded] :
       {std::pair<int64_t, int64_t>{100, 27}, {383, 130}, {385, 1}, {511, 257}}) {
    SCOPED_TRACE(testing::Message() << prompt_tokens << " + " << decoded);
    const int64_t tokens = prompt_tokens + decoded;
    auto file = *ModelFile::Open(dir / "tiny.gguf");
    const LayerPolicy policy =
        LayerPolicy::Default(file->name(), file->fingerprint(), file->hyperparameters());
    const auto bytes =
        MeasuredModel::ArenaBytes(file->hyperparameters(), policy, tokens, decoded, kForks);
    ASSERT_TRUE(bytes.ok()) << bytes.status();
    const auto model = MeasuredModel::Create(
        std::move(file), policy, {.threads = 1, .context_tokens = tokens, .arena_bytes = *bytes});
    ASSERT_TRUE(model.ok()) << model.status();
    const auto prompt = (*model)->Open("prompt", CacheMode::kHybrid, tokens);
    ASSERT_TRUE(prompt.ok()) << prompt.status();
    ASSERT_TRUE((*model)->RunPrefill(std::vector<TokenId>(prompt_tokens, 50), **prompt).ok());
    std::vector<MethodRun> runs;
    for (int64_t i = 0; i < kForks; ++i) {
      auto run = MethodRun::Start(**model, FullMethod(), **prompt, std::to_string(i), tokens, 1);
      ASSERT_TRUE(run.ok()) << "fork " << i << ": " << run.status();
      runs.push_back(*std::move(run));
    }
  }
}

TEST(MeasuredModelTest, TheArgMaxIsTheFirstOfTheLargest) {
  EXPECT_EQ(ArgMax(std::vector<float>{1, 3, 3, 2}), 1);
}

}  // namespace
}  // namespace tailor
