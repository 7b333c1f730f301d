#include "worker/policy/layer_policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>
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

// Measured for SomePolicy, every field different from its default.
CalibrationEvidence SomeEvidence() {
  CalibrationEvidence e;
  e.tool = "1.2.3";
  e.simd = "avx2";
  e.policy = SomePolicy().fingerprint();
  e.texts = {{"book.txt", Weights(7)}, {"other.txt", Weights(8)}};
  e.held_out_texts = {{"held.txt", Weights(9)}};
  e.context_tokens = 3500;
  e.decode_tokens = 64;
  e.windows = 4;
  e.last_queries = 32;
  e.max_quantized_layers = 3;
  e.alpha = 0.05;
  e.score_threshold = 0.2;
  e.scores = {0.57, 1.0 / 3, 0, 1};
  e.max_fetched_bytes = 2850816;
  e.max_kl = 0.01;
  e.fetched_bytes = 1000;
  e.device_bytes = 2000;
  e.held_out = {.kl = 0.0125,
                .kl_error = 0.001,
                .agreement = 0.9375,
                .perplexity_ratio = 1.02,
                .recall = {std::nullopt, 0.9, std::nullopt, 0.1 + 0.2}};
  e.default_held_out = {.kl = 0.02,
                        .kl_error = std::nullopt,
                        .agreement = 0.9,
                        .perplexity_ratio = 1.03,
                        .recall = {std::nullopt, 0.8, 0.7, 0.6}};
  e.tried = {{"default", "layer 0", 10, 20, 0.03, 1.1, 0.9},
             {"channels 8", "layer 0, 8 channels", 11, 21, 0.04, 1.2, 0.8}};
  return e;
}

LayerPolicy PolicyWith(const CalibrationEvidence& evidence) {
  LayerPolicy policy = SomePolicy();
  policy.calibration = std::make_shared<const CalibrationEvidence>(evidence);
  return policy;
}

// What reading the policy with its evidence changed in one place answers; /a/b of the evidence.
std::string RefusalOf(const std::string& pointer, const nlohmann::json& value) {
  nlohmann::json object = nlohmann::json::parse(PolicyWith(SomeEvidence()).ToJson());
  object[nlohmann::json::json_pointer("/evidence" + pointer)] = value;
  const auto read = LayerPolicy::FromJson(object.dump());
  EXPECT_FALSE(read.ok()) << pointer << " = " << value;
  return MessageOf(read.status());
}

TEST(PolicyEvidenceTest, EvidenceIsReadBackAsItWasWritten) {
  const LayerPolicy policy = PolicyWith(SomeEvidence());
  const auto back = LayerPolicy::FromJson(policy.ToJson());
  ASSERT_TRUE(back.ok()) << back.status();
  ASSERT_NE(back->calibration, nullptr);
  EXPECT_EQ(back->ToJson(), policy.ToJson());
  const CalibrationEvidence &got = *back->calibration, want = SomeEvidence();
  EXPECT_EQ(got.scores, want.scores) << "doubles to the last bit";
  EXPECT_EQ(got.held_out.recall, want.held_out.recall);
  EXPECT_EQ(got.held_out.kl_error, want.held_out.kl_error);
  EXPECT_EQ(got.default_held_out.kl_error, std::nullopt);
  EXPECT_EQ(got.max_device_bytes, std::nullopt);
  EXPECT_EQ(got.max_fetched_bytes, want.max_fetched_bytes);
  EXPECT_EQ(got.max_kl, want.max_kl);
  EXPECT_EQ(got.texts[1].sha256, Weights(8));
  ASSERT_EQ(got.tried.size(), 2u);
  EXPECT_EQ(got.tried[1].configuration, "layer 0, 8 channels");
  EXPECT_EQ(got.tried[1].device_bytes, 21);
}

TEST(PolicyEvidenceTest, EvidenceIsNoPartOfTheFingerprint) {
  LayerPolicy noted = SomePolicy();
  noted.note = "by hand";
  EXPECT_EQ(noted.fingerprint(), SomePolicy().fingerprint());
  EXPECT_EQ(PolicyWith(SomeEvidence()).fingerprint(), SomePolicy().fingerprint());
}

TEST(PolicyEvidenceTest, ANoteByHandIsKept) {
  LayerPolicy policy = SomePolicy();
  policy.note = "docs/decisions/0004-selection.md";
  const auto back = LayerPolicy::FromJson(policy.ToJson());
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->note, policy.note);
  EXPECT_EQ(back->calibration, nullptr);
}

TEST(PolicyEvidenceTest, EvidenceOfOtherNumbersIsRefused) {
  LayerPolicy edited = PolicyWith(SomeEvidence());
  edited.bits = 8;
  const auto read = LayerPolicy::FromJson(edited.ToJson());
  EXPECT_THAT(MessageOf(read.status()), HasSubstr("evidence was measured with policy"));
  EXPECT_THAT(MessageOf(read.status()), HasSubstr("calibrate again, or remove the evidence"));
  LayerPolicy moved = PolicyWith(SomeEvidence());
  moved.selector = Selector::kStore;  // changes no token
  EXPECT_TRUE(LayerPolicy::FromJson(moved.ToJson()).ok());
}

TEST(PolicyEvidenceTest, ACalibratedPolicyForOtherWeightsOrLayersIsRefused) {
  const LayerPolicy policy = PolicyWith(SomeEvidence());
  EXPECT_TRUE(policy.Validate(SmallModel(), Weights(1)).ok());
  EXPECT_EQ(policy.Validate(SmallModel(), Weights(2)).code(),
            absl::StatusCode::kFailedPrecondition);
  CalibrationEvidence fewer = SomeEvidence();
  fewer.scores.pop_back();
  EXPECT_THAT(MessageOf(PolicyWith(fewer).Validate(SmallModel(), Weights(1))),
              HasSubstr("evidence.dense_preference's length is 3, limit 4..4"));
}

TEST(PolicyEvidenceTest, BadEvidenceIsNamedWithValueAndLimit) {
  EXPECT_THAT(RefusalOf("/extra", 1), HasSubstr("evidence.extra is unknown"));
  EXPECT_THAT(RefusalOf("/held_out/extra", 1), HasSubstr("evidence.held_out.extra is unknown"));
  EXPECT_THAT(RefusalOf("/tried/1/extra", 1), HasSubstr("evidence.tried[1].extra is unknown"));
  EXPECT_THAT(RefusalOf("/version", 2), HasSubstr("evidence.version is 2, limit 1..1"));
  EXPECT_THAT(RefusalOf("/windows", 0), HasSubstr("evidence.windows is 0, limit 1.."));
  EXPECT_THAT(RefusalOf("/windows", 1.5), HasSubstr("evidence.windows is not an integer"));
  EXPECT_THAT(RefusalOf("/device_bytes", UINT64_MAX),
              HasSubstr("device_bytes is 18446744073709551615, limit 0.."));
  EXPECT_THAT(RefusalOf("/alpha", 2), HasSubstr("evidence.alpha is 2, limit 0..1"));
  EXPECT_THAT(RefusalOf("/dense_preference/0", -1),
              HasSubstr("evidence.dense_preference is -1, limit 0..1"));
  EXPECT_THAT(RefusalOf("/held_out/recall/1", 1.5),
              HasSubstr("held_out.recall is 1.5, limit 0..1"));
  EXPECT_THAT(RefusalOf("/held_out", 1), HasSubstr("evidence.held_out is not a JSON object"));
  EXPECT_THAT(RefusalOf("/texts", "book"), HasSubstr("evidence.texts is not an array"));
  EXPECT_THAT(RefusalOf("/texts/0/sha256", "ab"), HasSubstr("evidence.texts[0].sha256"));
  EXPECT_THAT(RefusalOf("/tried/0/step", std::string(2000, 'x')),
              HasSubstr("evidence.tried[0].step has 2000 bytes, limit 1024"));
  EXPECT_THAT(RefusalOf("/dense_preference", std::vector<int>(5000, 0)),
              HasSubstr("dense_preference's length is 5000, limit 4096"));
  EXPECT_THAT(RefusalOf("", 1), HasSubstr("evidence is not a string or an object"));
  nlohmann::json object = nlohmann::json::parse(PolicyWith(SomeEvidence()).ToJson());
  object["evidence"].erase("simd");
  EXPECT_THAT(MessageOf(LayerPolicy::FromJson(object.dump()).status()),
              HasSubstr("evidence.simd is missing"));
}

// A name that a hostile model file gave the policy.
TEST(LayerPolicyTest, ANameThatIsNoUtf8IsWrittenWithReplacements) {
  LayerPolicy policy = SomePolicy();
  policy.model_name = "a\xff";
  const auto back = LayerPolicy::FromJson(policy.ToJson());
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->model_name, "a\xef\xbf\xbd");
}

}  // namespace
}  // namespace tailor
