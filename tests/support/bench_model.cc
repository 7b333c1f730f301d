#include "tests/support/bench_model.h"

#include "common/status.h"

namespace tailor {

absl::StatusOr<std::unique_ptr<BenchModel>> BenchModel::Load(const BenchModelOptions& options) {
  auto bench = std::make_unique<BenchModel>();
  TS_ASSIGN_OR_RETURN(bench->file, ModelFile::Open(options.model_path));
  const ModelFile& file = *bench->file;
  if (options.policy_path.empty()) {
    bench->policy = LayerPolicy::Default(file.name(), file.fingerprint(), file.hyperparameters());
  } else {
    TS_ASSIGN_OR_RETURN(bench->policy, LayerPolicy::Load(options.policy_path));
  }
  TS_RETURN_IF_ERROR(bench->policy.Validate(file.hyperparameters(), file.fingerprint()));
  TS_ASSIGN_OR_RETURN(bench->backend, MakeCpuBackend({.threads = options.threads}));
  TS_ASSIGN_OR_RETURN(bench->model, LoadLlama(file, bench->backend.get(), options.context_tokens,
                                              nullptr));
  TS_ASSIGN_OR_RETURN(bench->buffers, StepBuffers::Make(bench->model, 512));
  TS_ASSIGN_OR_RETURN(auto pages, PageStore::Create({.arena_bytes = options.arena_bytes}));
  bench->store = std::make_unique<LocalKvClient>(std::move(pages));
  const LlamaHyperparameters& shape = file.hyperparameters();
  TS_ASSIGN_OR_RETURN(bench->pool, bench->store->OpenPool(
                                       {.model = file.fingerprint(),
                                        .policy = bench->policy.fingerprint(),
                                        .shape = {.layers = shape.layers,
                                                  .kv_heads = shape.kv_heads,
                                                  .head_dim = shape.head_dim,
                                                  .sparse_layers =
                                                      bench->policy.SparseLayers(shape.layers)},
                                        .max_bytes = 0}));
  return bench;
}

absl::StatusOr<std::unique_ptr<SequenceCache>> BenchModel::Open(const std::string& name,
                                                                CacheMode mode, int64_t tokens) {
  const TokenId one = 0;  // a history shorter than a page shares nothing
  TS_ASSIGN_OR_RETURN(SequenceGrant grant, store->OpenSequence({.tenant = "bench", .name = name},
                                                               std::span(&one, 1)));
  TS_ASSIGN_OR_RETURN(auto cache, SequenceCache::Make(backend.get(), store.get(), &pool, policy,
                                                      mode, std::move(grant)));
  TS_RETURN_IF_ERROR(cache->Reserve(tokens));
  return cache;
}

absl::StatusOr<std::unique_ptr<SequenceCache>> BenchModel::Fork(const SequenceCache& parent,
                                                                const std::string& name,
                                                                CacheMode mode, int64_t tokens) {
  TS_ASSIGN_OR_RETURN(SequenceGrant grant,
                      store->ForkSequence(parent.handle(), {.tenant = "bench", .name = name}));
  TS_ASSIGN_OR_RETURN(auto cache, SequenceCache::Make(backend.get(), store.get(), &pool, policy,
                                                      mode, std::move(grant)));
  TS_RETURN_IF_ERROR(cache->Reserve(tokens));
  return cache;
}

absl::Status BenchModel::RunPrefill(std::vector<TokenId> tokens, SequenceCache& cache) {
  TS_ASSIGN_OR_RETURN(auto prefill, Prefill::Start(model, std::move(tokens), cache));
  while (!prefill->done()) TS_RETURN_IF_ERROR(prefill->RunUnit(buffers));
  return absl::OkStatus();
}

}  // namespace tailor
