#include "services/worker/policy_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

namespace tailor {
namespace {

using ::testing::HasSubstr;

class PolicySourceTest : public ::testing::Test {
 protected:
  PolicySourceTest() {
    std::string pattern = ::testing::TempDir() + "policy_source_XXXXXX";
    dir_ = mkdtemp(pattern.data());
    shape_.layers = 6;
    shape_.hidden = 64;
    shape_.q_heads = 4;
    shape_.kv_heads = 2;
    shape_.head_dim = 32;
    shape_.ffn_hidden = 64;
    shape_.vocab = 100;
    shape_.context_tokens = 1024;
    weights_.bytes[0] = 1;
  }
  ~PolicySourceTest() override { std::filesystem::remove_all(dir_); }

  // A valid policy that can be told from others by its recent_tokens.
  void Write(const std::filesystem::path& path, int recent_tokens) {
    LayerPolicy policy = LayerPolicy::Default("m", weights_, shape_);
    policy.recent_tokens = recent_tokens;
    std::ofstream(path) << policy.ToJson();
  }
  absl::StatusOr<ChosenPolicy> Choose(const PolicyRequest& request) {
    return ChoosePolicy(request, "m", weights_, shape_);
  }

  std::filesystem::path dir_;
  LlamaHyperparameters shape_;
  Fingerprint weights_;
};

TEST_F(PolicySourceTest, WithoutAFileTheDefaultIsTaken) {
  const auto chosen = Choose({.model = dir_ / "m.gguf"});
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  EXPECT_EQ(chosen->source, "built-in default");
}

TEST_F(PolicySourceTest, TheOrderIsFlagThenNeighbourThenDirectory) {
  const std::filesystem::path flag = dir_ / "flag.json", policies = dir_ / "policies";
  std::filesystem::create_directory(policies);
  PolicyRequest request{.model = dir_ / "m.gguf", .policy_dir = policies};
  Write(policies / (weights_.ToHex() + ".json"), 41);
  EXPECT_EQ(Choose(request)->policy.recent_tokens, 41);
  Write(dir_ / "m.policy.json", 42);
  EXPECT_EQ(Choose(request)->policy.recent_tokens, 42);
  Write(flag, 43);
  request.policy = flag;
  EXPECT_EQ(Choose(request)->policy.recent_tokens, 43);
}

TEST_F(PolicySourceTest, AModelDirectoryHasItsPolicyBesideIt) {
  Write(dir_ / "hf-model.policy.json", 44);
  EXPECT_EQ(Choose({.model = dir_ / "hf-model" / ""})->policy.recent_tokens, 44);
}

TEST_F(PolicySourceTest, ADamagedNeighbourIsAnErrorWithItsPath) {
  std::ofstream(dir_ / "m.policy.json") << "{";
  const absl::Status status = Choose({.model = dir_ / "m.gguf"}).status();
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr("m.policy.json"));
}

TEST_F(PolicySourceTest, APolicyForOtherWeightsIsRefused) {
  Write(dir_ / "m.policy.json", 42);
  weights_.bytes[0] = 2;
  EXPECT_EQ(Choose({.model = dir_ / "m.gguf"}).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(PolicySourceTest, AMissingFileNamedByTheFlagIsAnError) {
  EXPECT_FALSE(Choose({.model = dir_ / "m.gguf", .policy = dir_ / "none.json"}).ok());
}

TEST_F(PolicySourceTest, SelectorAndQueryOverrideTheFile) {
  const auto chosen = Choose(
      {.model = dir_ / "m.gguf", .selector = Selector::kStore, .query = QueryMode::kPredicted});
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  EXPECT_EQ(chosen->policy.selector, Selector::kStore);
  EXPECT_EQ(chosen->policy.query, QueryMode::kPredicted);
}

}  // namespace
}  // namespace tailor
