// The ways to decode that are compared: the table of methods, and one running method. All start
// from the same prefilled rows, and all that fetch rows fetch equally many (policy.select.top_k per
// KV head).
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "worker/quality/measured_model.h"

namespace tailor {

struct Method {
  std::string_view name;
  std::string_view description;
  CacheMode mode = CacheMode::kHybrid;
  // The layer table that it decodes with.
  LayerPolicy (*layers)(const LayerPolicy& policy, int32_t layer_count) = nullptr;
  // nullptr: the policy's own selection.
  std::unique_ptr<RowFetcher> (*fetcher)(const MeasuredModel& model, const SequenceCache& cache,
                                         uint64_t seed) = nullptr;
};

std::span<const Method> AllMethods();
// The yardstick: exact attention over every token.
const Method& FullMethod();
// Errors: InvalidArgument listing the names.
absl::StatusOr<const Method*> FindMethod(std::string_view name);

class MethodRun {
 public:
  // Forks `prompt` under `name`, unique in the store, with room for `tokens` tokens in all. `seed`
  // serves methods that draw lots. Errors: those of the store; InvalidArgument where the model's
  // shape does not allow the method.
  static absl::StatusOr<MethodRun> Start(MeasuredModel& model, const Method& method,
                                         const SequenceCache& prompt, const std::string& name,
                                         int64_t tokens, uint64_t seed);
  // Leaves the next token's logits in model.logits().
  absl::Status Step(TokenId token) { return model_->Step(token, layers_, *cache_); }
  absl::Status Close() { return model_->store->CloseSequence(cache_->handle()); }
  SequenceCache& cache() { return *cache_; }
  const LayerPolicy& layers() const { return layers_; }

 private:
  MethodRun(MeasuredModel* model, LayerPolicy layers, std::unique_ptr<SequenceCache> cache)
      : model_(model), layers_(std::move(layers)), cache_(std::move(cache)) {}

  MeasuredModel* model_;
  LayerPolicy layers_;
  std::unique_ptr<SequenceCache> cache_;
};

}  // namespace tailor
