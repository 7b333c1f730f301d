#include "worker/policy/layer_policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>

namespace tailor {
namespace {

using ::testing::HasSubstr;

LlamaHyperparameters SmallModel() {
  LlamaHyperparameters model;
  model.layers = 4;
  model.hidden = 128;
  model.q_heads = 2;
  model.kv_heads = 1;
  model.head_dim = 64;
  return model;
}

Fingerprint Weights(int n) { return Fingerprinter().AddInt(n).Finish(); }

LayerPolicy SomePolicy() {
  LayerPolicy policy = LayerPolicy::Default("m", Weights(1), SmallModel());
  policy.quantized_layers = {0, 2};
  policy.bits = 4;
  policy.select.channels = 12;
  policy.select.rescore_extra = 32;
  policy.layer_top_k = {128, 64, 32, 288};
  policy.query = QueryMode::kPredicted;
  return policy;
}

std::string MessageOf(const absl::Status& status) { return std::string(status.message()); }

TEST(LayerPolicyTest, JsonRoundTripKeepsEveryField) {
  const LayerPolicy policy = SomePolicy();
  const auto back = LayerPolicy::FromJson(policy.ToJson());
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->ToJson(), policy.ToJson());
  EXPECT_EQ(back->fingerprint(), policy.fingerprint());
}

TEST(LayerPolicyTest, AnyFieldThatChangesTokensChangesTheFingerprint) {
  const LayerPolicy base = SomePolicy();
  std::vector<LayerPolicy> others(16, base);
  others[0].quantized_layers = {0};
  others[1].bits = 8;
  others[2].residual_tokens = 64;
  others[3].sink_tokens = 4;
  others[4].recent_tokens = 60;
  others[5].select.channels = 13;
  others[6].select.top_k = 64;
  others[7].query = QueryMode::kExact;
  others[8].predict_norm = PredictNorm::kCurrent;
  others[9].select.group = GroupRule::kMean;
  others[10].select.rescore_extra = 0;
  others[11].layer_top_k = {1, 2, 3, 4};
  others[12].layer_top_k = {1, 2, 3, 5};
  others[13].mass_floor = 0.9f;
  others[14].tail = Tail::kNone;
  others[15].tail_gain = 0.5f;
  for (size_t i = 0; i < others.size(); ++i) {
    EXPECT_NE(others[i].fingerprint(), base.fingerprint()) << "field " << i;
  }
}

// Files written before the two fields named the published selection's other numbers, or meant them.
TEST(LayerPolicyTest, AFileWithoutTheNewerFieldsMeansThePublishedSelection) {
  std::string text = SomePolicy().ToJson();
  for (const std::string line :
       {"  \"channels\": 12,\n", "  \"group\": \"heads\",\n", "  \"rescore_extra\": 32,\n",
        "  \"tail\": \"page_means\",\n", "  \"tail_gain\": 0.25,\n"}) {
    ASSERT_NE(text.find(line), std::string::npos) << text;
    text.erase(text.find(line), line.size());
  }
  const auto policy = LayerPolicy::FromJson(text);
  ASSERT_TRUE(policy.ok()) << policy.status();
  EXPECT_EQ(policy->select.channels, 8);
  EXPECT_EQ(policy->select.group, GroupRule::kMean);
  EXPECT_EQ(policy->select.rescore_extra, 0);
  EXPECT_EQ(policy->tail, Tail::kNone);
}

TEST(LayerPolicyTest, TheDefaultSelectsByHeadsAndLooksTwice) {
  LlamaHyperparameters narrow = SmallModel();
  narrow.head_dim = 16;
  const LayerPolicy wide = LayerPolicy::Default("m", Weights(1), SmallModel());
  EXPECT_EQ(wide.select.channels, 24);
  EXPECT_EQ(wide.select.group, GroupRule::kHeads);
  EXPECT_EQ(wide.select.rescore_extra, 64);
  EXPECT_EQ(LayerPolicy::Default("m", Weights(1), narrow).select.channels, 16);
}

// A check changes tokens only where a floor follows from it.
TEST(LayerPolicyTest, HowOftenChecksAreMadeCountsOnlyWithAFloor) {
  LayerPolicy seldom = SomePolicy(), often = SomePolicy();
  often.check_every_tokens = 8;
  EXPECT_EQ(seldom.fingerprint(), often.fingerprint());
  seldom.mass_floor = often.mass_floor = 0.9f;
  EXPECT_NE(seldom.fingerprint(), often.fingerprint());
}

TEST(LayerPolicyTest, TheSelectorIsKeptAndDoesNotChangeTheFingerprint) {
  for (const Selector selector :
       {Selector::kInline, Selector::kStore, Selector::kSketch, Selector::kDevice}) {
    LayerPolicy policy = SomePolicy();
    policy.selector = selector;
    EXPECT_EQ(policy.fingerprint(), SomePolicy().fingerprint());
    EXPECT_EQ(LayerPolicy::FromJson(policy.ToJson())->selector, selector);
    policy.row_cache_rows = 64;
    EXPECT_EQ(policy.fingerprint(), SomePolicy().fingerprint());
    EXPECT_EQ(LayerPolicy::FromJson(policy.ToJson())->row_cache_rows, 64);
    EXPECT_THAT(policy.Summary(), HasSubstr(std::string(ToString(selector))));
  }
}

TEST(LayerPolicyTest, AnUnknownSelectorIsRefusedWithTheOnesThereAre) {
  std::string json = SomePolicy().ToJson();
  json.replace(json.find("inline"), 6, "guess");
  EXPECT_THAT(MessageOf(LayerPolicy::FromJson(json).status()),
              HasSubstr("selector is not one of \"inline\", \"store\", \"sketch\", \"device\""));
}

TEST(LayerPolicyTest, APolicyForOtherWeightsIsRefused) {
  const absl::Status status = SomePolicy().Validate(SmallModel(), Weights(2));
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
}

TEST(LayerPolicyTest, BadValuesAreNamedWithValueAndLimit) {
  LayerPolicy policy = SomePolicy();
  policy.select.channels = 65;
  EXPECT_THAT(MessageOf(policy.Validate(SmallModel(), Weights(1))),
              HasSubstr("channels is 65, limit 1..64"));
  policy = SomePolicy();
  policy.row_cache_rows = 6;
  EXPECT_THAT(MessageOf(policy.Validate(SmallModel(), Weights(1))),
              HasSubstr("row_cache_rows is 6, not a multiple of 4"));
  policy = SomePolicy();
  policy.select.rescore_extra = -1;
  EXPECT_THAT(MessageOf(policy.Validate(SmallModel(), Weights(1))),
              HasSubstr("rescore_extra is -1, limit 0..4096"));
  policy = SomePolicy();
  policy.layer_top_k = {1, 2, 3};
  EXPECT_THAT(MessageOf(policy.Validate(SmallModel(), Weights(1))),
              HasSubstr("layer_top_k's length is 3, limit 4..4"));
  policy.layer_top_k = {1, 2, 3, 0};
  EXPECT_THAT(MessageOf(policy.Validate(SmallModel(), Weights(1))),
              HasSubstr("layer_top_k is 0, limit 1..4096"));
  policy = SomePolicy();
  for (const float gain : {4.5f, -4.5f, std::numeric_limits<float>::quiet_NaN()}) {
    policy.tail_gain = gain;
    EXPECT_THAT(MessageOf(policy.Validate(SmallModel(), Weights(1))), HasSubstr("limit -4..4"));
  }
  policy.tail_gain = 0.25f;
  policy.mass_floor = 1.0f;
  EXPECT_THAT(MessageOf(policy.Validate(SmallModel(), Weights(1))),
              HasSubstr("mass_floor is 1, limit 0 to below 1"));
  policy.mass_floor = 0.9f;
  policy.check_every_tokens = 0;
  EXPECT_THAT(MessageOf(policy.Validate(SmallModel(), Weights(1))),
              HasSubstr("needs check_every_tokens above 0"));
  policy.check_every_tokens = -1;
  EXPECT_THAT(MessageOf(policy.Validate(SmallModel(), Weights(1))),
              HasSubstr("check_every_tokens is -1"));
  policy = SomePolicy();
  policy.bits = 3;
  EXPECT_THAT(MessageOf(policy.Validate(SmallModel(), Weights(1))), HasSubstr("bits is 3"));
  policy = SomePolicy();
  policy.quantized_layers = {4};
  EXPECT_THAT(MessageOf(policy.Validate(SmallModel(), Weights(1))), HasSubstr("limit 0..3"));
  policy.quantized_layers = {1, 1};
  EXPECT_THAT(MessageOf(policy.Validate(SmallModel(), Weights(1))), HasSubstr("ascending"));
}

TEST(LayerPolicyTest, UnknownFieldsAndWrongTypesAreRefused) {
  EXPECT_FALSE(LayerPolicy::FromJson("[]").ok());
  EXPECT_FALSE(LayerPolicy::FromJson("{\"version\": 1").ok());
  EXPECT_FALSE(LayerPolicy::FromJson("{\"version\": 2}").ok());
  std::string text = SomePolicy().ToJson();
  text.insert(text.find('{') + 1, "\"chanels\": 8,");
  EXPECT_THAT(MessageOf(LayerPolicy::FromJson(text).status()), HasSubstr("chanels is unknown"));
  text = SomePolicy().ToJson();
  text.replace(text.find("heads"), 5, "median");
  EXPECT_THAT(MessageOf(LayerPolicy::FromJson(text).status()),
              HasSubstr("group is neither \"mean\" nor \"heads\""));
  text = SomePolicy().ToJson();
  const std::string bits = "\"bits\": 4";
  text.replace(text.find(bits), bits.size(), "\"bits\": 4294967300");
  EXPECT_THAT(MessageOf(LayerPolicy::FromJson(text).status()), HasSubstr("bits"));
}

TEST(LayerPolicyTest, TheWindowCoversRecentAndResidual) {
  LayerPolicy policy = SomePolicy();
  policy.residual_tokens = 128;
  policy.recent_tokens = 56;
  EXPECT_EQ(policy.WindowTokens(), 128);
  policy.quantized_layers.clear();
  EXPECT_EQ(policy.WindowTokens(), 56);
}

}  // namespace
}  // namespace tailor
