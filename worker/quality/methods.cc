#include "worker/quality/methods.h"

#include <numeric>

#include "absl/strings/str_join.h"
#include "common/status.h"
#include "worker/quality/choosing_fetcher.h"

namespace tailor {
namespace {

LayerPolicy AsGiven(const LayerPolicy& policy, int32_t) { return policy; }

// A control chooses by the query that will attend, whatever the policy predicts.
LayerPolicy ExactQuery(const LayerPolicy& policy, int32_t) {
  LayerPolicy layers = policy;
  layers.query = QueryMode::kExact;
  return layers;
}

// What is published leaves the tail out.
LayerPolicy ExactQueryNoTail(const LayerPolicy& policy, int32_t layer_count) {
  LayerPolicy layers = ExactQuery(policy, layer_count);
  layers.tail = Tail::kNone;
  return layers;
}

LayerPolicy AllQuantized(const LayerPolicy& policy, int32_t layer_count) {
  LayerPolicy layers = policy;
  layers.quantized_layers.resize(layer_count);
  std::iota(layers.quantized_layers.begin(), layers.quantized_layers.end(), 0);
  return layers;
}

std::unique_ptr<RowFetcher> Oracle(const MeasuredModel& model, const SequenceCache& cache,
                                   uint64_t) {
  return MakeOracleFetcher(model.backend.get(), model.policy.select, cache);
}

std::unique_ptr<RowFetcher> Random(const MeasuredModel& model, const SequenceCache&,
                                   uint64_t seed) {
  return MakeRandomFetcher(model.backend.get(), model.policy.select, model.pool.shape().kv_heads,
                           seed);
}

std::unique_ptr<RowFetcher> NoRows(const MeasuredModel& model, const SequenceCache&, uint64_t) {
  SelectParams params = model.policy.select;
  params.top_k = 0;
  return MakeRandomFetcher(model.backend.get(), params, model.pool.shape().kv_heads, 0);
}

std::unique_ptr<RowFetcher> Quest(const MeasuredModel& model, const SequenceCache&, uint64_t) {
  return MakeQuestFetcher(model.backend.get(), model.policy.select, model.pool.shape());
}

constexpr Method kMethods[] = {
    {"full", "exact attention over every token: the yardstick", CacheMode::kFull, AsGiven, nullptr},
    {"hybrid", "the policy, as served", CacheMode::kHybrid, AsGiven, nullptr},
    {"oracle", "the policy with the rows of largest true attention mass", CacheMode::kHybrid,
     ExactQuery, Oracle},
    {"quest", "the policy with whole pages of 16 tokens by Quest's bound", CacheMode::kHybrid,
     ExactQueryNoTail, Quest},
    {"random", "the policy with rows by lot", CacheMode::kHybrid, ExactQueryNoTail, Random},
    {"window", "the policy with no fetched rows: sink and window only", CacheMode::kHybrid,
     ExactQueryNoTail, NoRows},
    {"quantized", "every layer quantized at the policy's bits", CacheMode::kHybrid, AllQuantized,
     nullptr},
};

}  // namespace

std::span<const Method> AllMethods() { return kMethods; }
const Method& FullMethod() { return kMethods[0]; }

absl::StatusOr<const Method*> FindMethod(std::string_view name) {
  for (const Method& method : kMethods) {
    if (method.name == name) return &method;
  }
  const auto append_name = [](std::string* out, const Method& m) { out->append(m.name); };
  return absl::InvalidArgumentError(absl::StrCat("method ", std::string(name), " is none of ",
                                                 absl::StrJoin(kMethods, ", ", append_name)));
}

absl::StatusOr<MethodRun> MethodRun::Start(MeasuredModel& model, const Method& method,
                                           const SequenceCache& prompt, const std::string& name,
                                           int64_t tokens, uint64_t seed) {
  LayerPolicy layers = method.layers(model.policy, model.model.shape.layers);
  TS_RETURN_IF_ERROR(layers.Validate(model.model.shape, model.file->fingerprint()));
  TS_ASSIGN_OR_RETURN(auto cache, model.Fork(prompt, name, method.mode, layers, tokens));
  if (method.fetcher != nullptr) cache->set_fetcher(method.fetcher(model, *cache, seed));
  return MethodRun(&model, std::move(layers), std::move(cache));
}

}  // namespace tailor
