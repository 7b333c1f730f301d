#include "tests/bench/gpu/rig.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <random>
#include <thread>

#include "common/status.h"
#include "kvstore/client/shm_kv_client.h"
#include "kvstore/page_store.h"
#include "tests/kvstore/client/forwarding_control.h"
#include "worker/ops/cuda_loader.h"

namespace tailor::bench {
namespace {

constexpr char kTenant[] = "bench";
constexpr int64_t kStepRoom = 256;                    // tokens that a sequence may come to decode
constexpr int64_t kArenaOverhead = int64_t{4} << 20;  // header, slot table, huge pages
constexpr int64_t kHostSpare = int64_t{8} << 30;      // left to everybody else

absl::StatusOr<int64_t> ArenaBytes(const BenchPlan& plan, const LayerPolicy& policy) {
  // The base, one prefill beside it, and the open pages of all sequences that alternate.
  const int64_t most =
      plan.prefills.empty() ? 0 : *std::max_element(plan.prefills.begin(), plan.prefills.end());
  const int64_t open = 4 * (plan.batch + 8);
  const PoolShape shape = {.layers = plan.shape.layers,
                           .kv_heads = plan.shape.kv_heads,
                           .head_dim = plan.shape.head_dim,
                           .sparse_layers = policy.SparseLayers(plan.shape.layers)};
  TS_ASSIGN_OR_RETURN(const PoolLayout layout,
                      PoolLayout::Make(shape, (plan.base_tokens + most) / kPageTokens + open + 8));
  return layout.bytes() + kArenaOverhead;
}

BenchPlan LlamaPlan() {
  BenchPlan plan = {.shape = Llama31Shape(),
                    .longbench = {"longbench", 8, 8, 56, 128},
                    .ruler = {"ruler", 12, 8, 120, 896},
                    .standard = {"default", 24, 8, 56, 128, false},
                    .contexts = {2048, 8192, 32768, 131072, 1048576},
                    .base_tokens = 131072,
                    .prefills = {8192, 131072, 32768},
                    .batch = 8,
                    .copy_bytes = int64_t{1} << 30,
                    .chunk_tokens = 512};
  plan.shape.context_tokens = int64_t{1} << 21;  // 1M is the geometry's, not the trained model's
  return plan;
}

BenchPlan TinyPlan() {
  BenchPlan plan = {.shape = Llama31Shape(3, 272),
                    .longbench = {"longbench", 8, 8, 56, 32},
                    .ruler = {"ruler", 12, 8, 120, 96},
                    .standard = {"default", 24, 8, 56, 32, false},
                    .contexts = {256, 512, 1024},
                    .base_tokens = 512,
                    .prefills = {96},
                    .batch = 2,
                    .copy_bytes = int64_t{1} << 20,
                    .chunk_tokens = 64};
  plan.shape.hidden = 256;
  plan.shape.q_heads = 4;
  plan.shape.kv_heads = 2;
  plan.shape.head_dim = 64;
  plan.shape.ffn_hidden = 320;
  return plan;
}

int HostThreads(const BenchOptions& options) {
  return options.threads > 0 ? options.threads
                             : static_cast<int>(std::thread::hardware_concurrency());
}

}  // namespace

absl::StatusOr<BenchPlan> PlanOf(const BenchOptions& options) {
  const bool tiny = options.geometry == "tiny";
  if (!tiny && options.geometry != "llama-3.1-8b") {
    return absl::InvalidArgumentError(
        absl::StrCat("geometry is ", options.geometry, ", known are llama-3.1-8b and tiny"));
  }
  BenchPlan plan = tiny ? TinyPlan() : LlamaPlan();
  if (options.layers > 0) plan.shape.layers = options.layers;
  if (options.base_tokens > 0) plan.base_tokens = options.base_tokens;
  if (plan.base_tokens % kPageTokens != 0 || plan.base_tokens < 2 * kPageTokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        "base tokens are ", plan.base_tokens, ", not two or more whole pages of ", kPageTokens));
  }
  std::erase_if(plan.prefills, [&](int64_t tokens) { return tokens > plan.base_tokens; });
  return plan;
}

double Quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const auto at = static_cast<size_t>(q * static_cast<double>(values.size() - 1) + 0.5);
  return values[at];
}

double Median(std::vector<double> values) { return Quantile(std::move(values), 0.5); }

int64_t AvailableHostBytes() {
  int64_t available = 0;
  std::ifstream meminfo("/proc/meminfo");
  for (std::string key, unit; meminfo >> key;) {
    int64_t kib = 0;
    meminfo >> kib;
    std::getline(meminfo, unit);
    if (key == "MemAvailable:") available = kib * 1024;
  }
  // A container's limit, where there is one ("max" is none).
  int64_t limit = 0, used = 0;
  if (std::ifstream("/sys/fs/cgroup/memory.max") >> limit &&
      std::ifstream("/sys/fs/cgroup/memory.current") >> used) {
    available = std::min(available, limit - used);
  }
  return available;
}

CutSequence::~CutSequence() {
  if (cache == nullptr) return;
  const SequenceHandle handle = cache->handle();
  cache.reset();
  (void)store->CloseSequence(handle);  // a benchmark's end says what went wrong before
}

absl::StatusOr<std::unique_ptr<Rig>> Rig::Make(const BenchOptions& options) {
  std::unique_ptr<Rig> rig(new Rig(options));
  TS_ASSIGN_OR_RETURN(rig->plan, PlanOf(options));
  rig->results = {{"kernels", nlohmann::json::array()}, {"decode", nlohmann::json::array()},
                  {"prefill", nlohmann::json::array()}, {"resume", nlohmann::json::array()},
                  {"dropped", nlohmann::json::array()}, {"skipped", nlohmann::json::array()}};
  TS_RETURN_IF_ERROR(rig->StartStore());
  TS_RETURN_IF_ERROR(rig->MakeModel());
  const double made = rig->clock.seconds();
  TS_RETURN_IF_ERROR(rig->FillBase());
  rig->results["start_seconds"] = {{"store_and_weights", made},
                                   {"base", rig->clock.seconds() - made}};
  return rig;
}

Rig::~Rig() = default;

absl::Status Rig::StartStore() {
  TS_ASSIGN_OR_RETURN(int64_t arena, ArenaBytes(plan, PolicyOf(plan.longbench, Path::kInline)));
  const int64_t there = AvailableHostBytes() - kHostSpare;
  // A host that is too small keeps shorter contexts; what is left out says so itself.
  while (options.geometry != "tiny" && arena > there && plan.base_tokens > 2 * kPageTokens) {
    Skip(absl::StrCat("contexts of ", plan.base_tokens, " tokens"),
         absl::StrCat("host memory: ", arena, " bytes needed, ", there, " there"));
    plan.base_tokens /= 2;
    std::erase_if(plan.prefills, [&](int64_t tokens) { return tokens > plan.base_tokens; });
    TS_ASSIGN_OR_RETURN(arena, ArenaBytes(plan, PolicyOf(plan.longbench, Path::kInline)));
  }
  TS_ASSIGN_OR_RETURN(auto pages, PageStore::Create({.arena_bytes = arena}));
  served = std::make_unique<ServedPageStore>(std::move(pages));
  ShmServerOptions server_options;
  server_options.socket_path = absl::StrCat("/tmp/tailor_bench_", ::getpid());
  server_options.selection_threads =
      options.geometry == "tiny" ? 1 : std::max(1, HostThreads(options) / 4);
  TS_ASSIGN_OR_RETURN(server, ShmServer::Start(served.get(), server_options));
  results["store"] = {{"arena_bytes", arena},
                      {"selection_threads", server_options.selection_threads}};
  return absl::OkStatus();
}

absl::Status Rig::MakeModel() {
  std::unique_ptr<Backend> backend;
  if (options.backend == "cpu") {
    TS_ASSIGN_OR_RETURN(backend, MakeCpuBackend({.threads = options.threads}));
  } else {
    TS_ASSIGN_OR_RETURN(backend, MakeCudaBackend({.device = 0,
                                                  .memory_bytes = options.device_memory_bytes,
                                                  .host_threads = options.threads,
                                                  .module = options.cuda_module}));
  }
  TS_ASSIGN_OR_RETURN(
      auto client,
      ShmKvClient::Connect({.socket_path = absl::StrCat("/tmp/tailor_bench_", ::getpid())},
                           std::make_unique<ForwardingControl>(served.get())));
  auto wrapped = std::make_unique<BenchStore>(std::move(client));
  store = wrapped.get();
  TS_ASSIGN_OR_RETURN(model, MakeRandomModel({.shape = plan.shape,
                                              .context_tokens = plan.contexts.back() + kStepRoom,
                                              .prefill_chunk_tokens = plan.chunk_tokens,
                                              .decode_rows = plan.batch},
                                             PolicyOf(plan.longbench, Path::kInline),
                                             std::move(backend), std::move(wrapped)));
  doorbell = OpenDoorbellLine(model->backend.get(), store, PolicyOf(plan.longbench, Path::kStore),
                              int64_t{shape().q_heads} * shape().head_dim);
  return absl::OkStatus();
}

LayerPolicy Rig::PolicyOf(const Budget& budget, Path path) const {
  LayerPolicy policy =
      LayerPolicy::Default("random", RandomModelFingerprint({.shape = plan.shape}), plan.shape);
  policy.sink_tokens = budget.sink_tokens;
  policy.recent_tokens = budget.recent_tokens;
  policy.select.sink_tokens = budget.sink_tokens;
  policy.select.channels = budget.channels;
  policy.select.top_k = budget.top_k;
  policy.check_every_tokens = 0;  // a self-check is not a step
  policy.row_cache_rows = 0;      // random keys hit no cache
  if (budget.published) {
    policy.select.group = GroupRule::kMean;
    policy.select.rescore_extra = 0;
    policy.tail = Tail::kNone;
  }
  if (path != Path::kEmpty && path != Path::kFull) policy.selector = SelectorOf(path);
  return policy;
}

std::vector<TokenId> Rig::RandomTokens(int64_t count, uint64_t seed) const {
  std::mt19937_64 random(seed);
  std::vector<TokenId> ids(count);
  for (TokenId& id : ids) id = static_cast<TokenId>(random() % plan.shape.vocab);
  return ids;
}

absl::StatusOr<CutSequence> Rig::Open(CacheMode mode, const LayerPolicy& policy, int64_t tokens) {
  const TokenId one = 0;  // shares nothing
  TS_ASSIGN_OR_RETURN(SequenceGrant grant,
                      store->OpenSequence({.tenant = kTenant, .name = absl::StrCat(opened_++)},
                                          std::span(&one, 1)));
  CutSequence made;
  made.store = store;
  TS_ASSIGN_OR_RETURN(made.cache, SequenceCache::Make(&ops(), store, &model->pool, policy, mode,
                                                      std::move(grant), doorbell.get()));
  TS_RETURN_IF_ERROR(made.cache->Reserve(tokens));
  return made;
}

absl::StatusOr<CutSequence> Rig::Cut(Path path, const LayerPolicy& policy, int64_t tokens,
                                     int64_t more) {
  if (path == Path::kEmpty) return Open(CacheMode::kFull, policy, more);
  const int64_t times = std::max<int64_t>(1, tokens / plan.base_tokens);
  TS_CHECK(tokens % (times * kPageTokens) == 0);
  // One id more: a grant leaves at least one token to compute.
  const std::span<const TokenId> history = std::span(base_tokens_).first(tokens / times + 1);
  store->RepeatNext(static_cast<int32_t>(times));
  TS_ASSIGN_OR_RETURN(
      SequenceGrant grant,
      store->OpenSequence({.tenant = kTenant, .name = absl::StrCat(opened_++)}, history));
  TS_CHECK(grant.committed_tokens == tokens);
  CutSequence made;
  made.store = store;
  TS_ASSIGN_OR_RETURN(
      made.cache, SequenceCache::Make(&ops(), store, &model->pool, policy,
                                      path == Path::kFull ? CacheMode::kFull : CacheMode::kHybrid,
                                      std::move(grant), doorbell.get()));
  TS_RETURN_IF_ERROR(made.cache->Reserve(tokens + more));
  return made;
}

absl::Status Rig::Step(const LayerPolicy& policy, std::span<const CutSequence> sequences) {
  std::vector<DecodeRow> rows;
  for (const CutSequence& sequence : sequences) {
    rows.push_back({.token = 17, .cache = sequence.cache.get(), .status = {}});
  }
  model->StepAll(policy, rows);
  for (const DecodeRow& row : rows) TS_RETURN_IF_ERROR(row.status);
  return absl::OkStatus();
}

// Rows are written as a prefill would, by the host's threads: the store then seals them as usual.
absl::Status Rig::FillBase() {
  const LayerPolicy policy = PolicyOf(plan.longbench, Path::kInline);
  // So many more that every page of the base has left the window.
  const int64_t tokens = plan.base_tokens + policy.WindowTokens();
  base_tokens_ = RandomTokens(tokens, 7);
  TS_ASSIGN_OR_RETURN(base_, Open(CacheMode::kHybrid, policy, tokens));
  const int64_t pages = tokens / kPageTokens, heads = shape().kv_heads;
  const int64_t page_values = int64_t{kPageTokens} * 2 * shape().head_dim;
  std::vector<BFloat16> block(64 * page_values + 4096);
  std::mt19937_64 random(11);
  std::normal_distribution<float> normal(0, 1);
  for (BFloat16& value : block) value = ToBFloat16(normal(random));
  ops().RunOnHost(shape().layers * heads * pages, [&](int64_t unit, int) {
    const int64_t slice = unit / pages, page = unit % pages;
    BFloat16* to = base_.cache->StoreRow(static_cast<int32_t>(slice / heads),
                                         static_cast<int32_t>(slice % heads), page * kPageTokens);
    const int64_t from = (unit % 63) * page_values + unit * 37 % 4096;
    std::memcpy(to, block.data() + from, page_values * sizeof(BFloat16));
  });
  for (int32_t layer = 0; layer < shape().layers; ++layer) {
    TS_RETURN_IF_ERROR(base_.cache->ExtendLayer(layer, tokens));
  }
  TS_RETURN_IF_ERROR(base_.cache->CommitPrefill(base_tokens_));
  TS_ASSIGN_OR_RETURN(base_pages_,
                      store->OpenSequence({.tenant = kTenant, .name = "base"},
                                          std::span(base_tokens_).first(plan.base_tokens + 1)));
  TS_CHECK(base_pages_.committed_tokens == plan.base_tokens);
  return absl::OkStatus();
}

double Rig::weight_bytes_per_step() const {
  const LlamaWeights& w = model->model.weights;
  return static_cast<double>(w.bytes - w.embedding.storage->bytes());
}

bool Rig::TimeFor(const std::string& name, double estimate_seconds) {
  if (clock.seconds() + estimate_seconds <= options.seconds) return true;
  std::fprintf(stderr, "dropped: %s (about %.0f s, %.0f left)\n", name.c_str(), estimate_seconds,
               seconds_left());
  results["dropped"].push_back(
      {{"case", name},
       {"reason", absl::StrCat("time: about ", static_cast<int64_t>(estimate_seconds + 0.5),
                               " s needed, ", static_cast<int64_t>(seconds_left()), " left of ",
                               static_cast<int64_t>(options.seconds))}});
  return false;
}

void Rig::Skip(const std::string& name, const std::string& reason) {
  std::fprintf(stderr, "skipped: %s: %s\n", name.c_str(), reason.c_str());
  results["skipped"].push_back({{"case", name}, {"reason", reason}});
}

}  // namespace tailor::bench
