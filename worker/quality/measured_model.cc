#include "worker/quality/measured_model.h"

#include <algorithm>

#include "common/status.h"
#include "kvstore/client/local_kv_client.h"
#include "worker/ops/cuda_loader.h"

namespace tailor {
namespace {

constexpr int64_t kPrefillChunkTokens = 512;
// Arena header, slot table, and rounding to huge pages.
constexpr int64_t kArenaOverheadBytes = int64_t{4} << 20;
constexpr char kTenant[] = "quality";

int64_t PagesFor(int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

PoolShape ShapeOf(const LlamaHyperparameters& shape, const LayerPolicy& policy) {
  return {.layers = shape.layers,
          .kv_heads = shape.kv_heads,
          .head_dim = shape.head_dim,
          .sparse_layers = policy.SparseLayers(shape.layers)};
}

}  // namespace

absl::StatusOr<std::unique_ptr<MeasuredModel>> MeasuredModel::Create(
    std::unique_ptr<ModelFile> file, const LayerPolicy& policy,
    const MeasuredModelOptions& options) {
  auto made = std::make_unique<MeasuredModel>();
  made->file = std::move(file);
  made->policy = policy;
  const LlamaHyperparameters& shape = made->file->hyperparameters();
  const Fingerprint& weights = made->file->fingerprint();
  TS_RETURN_IF_ERROR(policy.Validate(shape, weights));
  if (options.cuda) {
    TS_ASSIGN_OR_RETURN(made->backend, MakeCudaBackend({.device = 0,
                                                         .memory_bytes = 0,
                                                         .host_threads = options.threads,
                                                         .module = options.cuda_module}));
  } else {
    TS_ASSIGN_OR_RETURN(
        made->backend,
        MakeCpuBackend({.threads = options.threads, .far_host_memory = options.far_host_memory}));
  }
  TS_ASSIGN_OR_RETURN(made->model,
                      LoadLlama(*made->file, made->backend.get(), options.context_tokens, nullptr));
  TS_ASSIGN_OR_RETURN(made->buffers,
                      StepBuffers::Make(made->model, kPrefillChunkTokens, options.decode_rows));
  TS_ASSIGN_OR_RETURN(made->store, MakeLocalStore(options.arena_bytes));
  TS_ASSIGN_OR_RETURN(made->pool, made->store->OpenPool({.model = weights,
                                                         .policy = policy.fingerprint(),
                                                         .shape = ShapeOf(shape, policy),
                                                         .max_bytes = 0}));
  TS_RETURN_IF_ERROR(made->backend->MapHostMemory(made->pool.bytes()));
  return made;
}

absl::StatusOr<std::unique_ptr<MeasuredModel>> MeasuredModel::Load(
    const std::filesystem::path& model_path, const std::filesystem::path& policy_path,
    const MeasuredModelOptions& options) {
  TS_ASSIGN_OR_RETURN(auto file, ModelFile::Open(model_path));
  LayerPolicy policy =
      LayerPolicy::Default(file->name(), file->fingerprint(), file->hyperparameters());
  if (!policy_path.empty()) {
    TS_ASSIGN_OR_RETURN(policy, LayerPolicy::Load(policy_path));
  }
  return Create(std::move(file), policy, options);
}

absl::StatusOr<int64_t> MeasuredModel::ArenaBytes(const LlamaHyperparameters& shape,
                                                  const LayerPolicy& policy, int64_t tokens,
                                                  int64_t decoded, int64_t forks) {
  // A fork copies the open pages, fewer than a page beyond the window, and adds its own.
  const int64_t own_pages = PagesFor(policy.WindowTokens() + decoded) + 2;
  const int64_t pages = PagesFor(tokens) + forks * own_pages;
  TS_ASSIGN_OR_RETURN(const PoolLayout layout, PoolLayout::Make(ShapeOf(shape, policy), pages));
  return layout.bytes() + kArenaOverheadBytes;
}

absl::StatusOr<std::unique_ptr<SequenceCache>> MeasuredModel::Open(const std::string& name,
                                                                   CacheMode mode, int64_t tokens) {
  const TokenId one = 0;  // a history shorter than a page shares nothing
  TS_ASSIGN_OR_RETURN(SequenceGrant grant,
                      store->OpenSequence({.tenant = kTenant, .name = name}, std::span(&one, 1)));
  TS_ASSIGN_OR_RETURN(auto cache, SequenceCache::Make(backend.get(), store.get(), &pool, policy,
                                                      mode, std::move(grant)));
  TS_RETURN_IF_ERROR(cache->Reserve(tokens));
  return cache;
}

absl::StatusOr<std::unique_ptr<SequenceCache>> MeasuredModel::Fork(const SequenceCache& parent,
                                                                   const std::string& name,
                                                                   CacheMode mode,
                                                                   const LayerPolicy& layers,
                                                                   int64_t tokens) {
  TS_ASSIGN_OR_RETURN(SequenceGrant grant,
                      store->ForkSequence(parent.handle(), {.tenant = kTenant, .name = name}));
  TS_ASSIGN_OR_RETURN(auto cache, SequenceCache::Make(backend.get(), store.get(), &pool, layers,
                                                      mode, std::move(grant)));
  TS_RETURN_IF_ERROR(cache->Reserve(tokens));
  return cache;
}

absl::Status MeasuredModel::RunPrefill(
    std::vector<TokenId> tokens, SequenceCache& cache,
    const std::function<absl::Status(int64_t, int64_t)>& progress) {
  TS_ASSIGN_OR_RETURN(auto prefill, Prefill::Start(model, std::move(tokens), cache));
  while (!prefill->done()) {
    TS_RETURN_IF_ERROR(prefill->RunUnit(buffers));
    if (progress) TS_RETURN_IF_ERROR(progress(prefill->done_work(), prefill->total_work()));
  }
  return absl::OkStatus();
}

TokenId ArgMax(std::span<const float> logits) {
  return static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

}  // namespace tailor
