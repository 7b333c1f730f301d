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

}  // namespace

std::vector<std::string> Seeds() {
  LayerPolicy policy = LayerPolicy::Default("m", Fingerprinter().Finish(), Model());
  std::vector<std::string> seeds = {policy.ToJson()};
  policy.quantized_layers = {0, 2};
  policy.selector = Selector::kStore;
  policy.query = QueryMode::kPredicted;
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
