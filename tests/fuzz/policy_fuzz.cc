// The layer policy's JSON: what is taken and valid survives being written and read again.

#include "tests/fuzz/fuzz_target.h"
#include "worker/policy/layer_policy.h"

namespace tailor {
namespace {

LlamaHyperparameters Model() {
  LlamaHyperparameters model;
  model.layers = 4;
  model.q_heads = 2;
  model.kv_heads = 1;
  model.head_dim = 64;
  return model;
}

CalibrationEvidence EvidenceFor(const LayerPolicy& policy) {
  CalibrationEvidence evidence;
  evidence.policy = policy.fingerprint();
  evidence.texts = {{"a.txt", policy.weights}};
  evidence.context_tokens = evidence.decode_tokens = evidence.windows = evidence.last_queries = 1;
  evidence.scores = {0.5, 0.25, 0.1, 0};
  evidence.max_kl = 0.01;
  evidence.held_out.recall = {std::nullopt, 0.9, std::nullopt, 0.8};
  evidence.default_held_out.kl_error = 0.001;
  evidence.tried = {{"default", "layers", 1, 2, 0.5, 1.5, 0.75}};
  return evidence;
}

}  // namespace

std::vector<std::string> Seeds() {
  LayerPolicy policy = LayerPolicy::Default("m", Fingerprinter().Finish(), Model());
  std::vector<std::string> seeds = {policy.ToJson()};
  policy.quantized_layers = {0, 2};
  policy.selector = Selector::kStore;
  policy.query = QueryMode::kPredicted;
  seeds.push_back(policy.ToJson());
  policy.note = "by hand";
  seeds.push_back(policy.ToJson());
  policy.calibration = std::make_shared<const CalibrationEvidence>(EvidenceFor(policy));
  seeds.push_back(policy.ToJson());
  return seeds;
}

}  // namespace tailor

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tailor;
  const auto policy = LayerPolicy::FromJson(AsText(data, size));
  if (!policy.ok()) {
    FUZZ_EXPECT(!policy.status().message().empty());
    return 0;
  }
  if (!policy->Validate(Model(), policy->weights).ok()) return 0;
  FUZZ_EXPECT(policy->WindowTokens() > 0);
  FUZZ_EXPECT(policy->SparseLayers(4).size() + policy->quantized_layers.size() == 4);
  const auto back = LayerPolicy::FromJson(policy->ToJson());
  FUZZ_EXPECT(back.ok() && back->fingerprint() == policy->fingerprint());
  FUZZ_EXPECT(back->ToJson() == policy->ToJson());
  return 0;
}
