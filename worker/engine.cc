#include "worker/engine.h"

#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "common/log.h"
#include "common/model_file/model_file.h"
#include "common/status.h"
#include "worker/admission.h"
#include "worker/cache/device_fetcher.h"
#include "worker/cache/doorbell_fetcher.h"
#include "worker/live_sequence.h"
#include "worker/scheduler/scheduler.h"
#include "worker/turn.h"
#include "worker/turn_sampler.h"

namespace tailor {
namespace {

class LlamaEngine final : public Engine {
 public:
  LlamaEngine(const EngineOptions& options, LayerPolicy policy, std::unique_ptr<Backend> backend,
              std::unique_ptr<KvClient> store)
      : options_(options),
        policy_(std::move(policy)),
        backend_(std::move(backend)),
        store_(std::move(store)),
        turn_sampler_(backend_.get()) {}
  ~LlamaEngine() override;

  absl::Status Load(const ModelFile& file);
  void Start() { thread_ = std::thread([this] { Run(); }); }

  absl::StatusOr<TurnId> Submit(TurnRequest request, std::shared_ptr<TurnSink> sink) override;
  void Cancel(TurnId turn) override;
  absl::Status Fork(const SequenceKey& parent, const SequenceKey& child) override;
  absl::Status Remove(const SequenceKey& sequence) override;
  const ModelInfo& info() const override { return info_; }
  EngineStats stats() const override;

 private:
  using TurnMap = std::map<TurnId, std::shared_ptr<Turn>>;
  // --- engine thread ---
  void Run();
  BatchPlan WaitForWork();
  void RunDecode(std::span<const TurnId> turns);
  void RunPrefill(const std::shared_ptr<Turn>& turn);
  absl::Status StartTurn(Turn& turn);
  void AfterLogits(std::span<const std::shared_ptr<Turn>> turns);
  std::shared_ptr<Turn> Find(TurnId id) const;
  void Finish(Turn& turn, absl::StatusOr<FinishReason> outcome);
  void DropSequence(Turn& turn, const absl::Status& error);
  void PublishStats();

  // Runs `work` on the engine thread and waits for it. Unavailable when the engine stops.
  absl::Status OnEngineThread(std::function<absl::Status()> work);
  bool IsBusy(const SequenceKey& key) const;
  TurnQuote Running() const;

  const EngineOptions options_;
  const LayerPolicy policy_;
  // Order matters: buffers go before the backend that owns their memory.
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<KvClient> store_;
  TurnSampler turn_sampler_;
  PoolView pool_;
  LlamaModel model_;
  StepBuffers buffers_;
  std::unique_ptr<DoorbellLine> doorbell_;  // before the sequences that post to it
  std::unique_ptr<LiveSequences> live_;
  std::vector<DecodeRow> rows_;  // of the step at hand
  ModelInfo info_;
  AdmissionLimits limits_;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  // Guarded by mutex_:
  bool stopping_ = false;
  TurnId next_turn_ = 1;
  TurnMap turns_;                                     // admitted, not finished
  RunningQuotes busy_;
  std::deque<std::packaged_task<absl::Status()>> tasks_;
  EngineStats stats_;

  std::thread thread_;
};

LlamaEngine::~LlamaEngine() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

absl::Status LlamaEngine::Load(const ModelFile& file) {
  const LlamaHyperparameters& shape = file.hyperparameters();
  TS_RETURN_IF_ERROR(policy_.Validate(shape, file.fingerprint()));
  limits_ = AdmissionLimits::Of(options_, shape, *backend_);
  TS_ASSIGN_OR_RETURN(model_, LoadLlama(file, backend_.get(), limits_.context_tokens, nullptr));
  TS_ASSIGN_OR_RETURN(
      buffers_, StepBuffers::Make(model_, options_.prefill_chunk_tokens, options_.max_decode_rows));
  const PoolSpec spec = {.model = file.fingerprint(),
                         .policy = policy_.fingerprint(),
                         .shape = {.layers = shape.layers,
                                   .kv_heads = shape.kv_heads,
                                   .head_dim = shape.head_dim,
                                   .sparse_layers = policy_.SparseLayers(shape.layers)},
                         .max_bytes = 0};
  TS_ASSIGN_OR_RETURN(pool_, store_->OpenPool(spec));
  TS_RETURN_IF_ERROR(backend_->MapHostMemory(pool_.bytes()));
  doorbell_ = OpenDoorbellLine(backend_.get(), store_.get(), policy_,
                               int64_t{shape.q_heads} * shape.head_dim);
  TS_RETURN_IF_ERROR(limits_.LimitToWhatIsLeft(*backend_, shape, options_.prefill_chunk_tokens));
  live_ = std::make_unique<LiveSequences>(backend_.get(), store_.get(), &pool_, policy_,
                                          doorbell_.get());
  info_ = {.name = file.name(),
           .weights = file.fingerprint(),
           .policy = policy_.fingerprint(),
           .context_tokens = limits_.context_tokens,
           .layers = shape.layers,
           .vocab = shape.vocab,
           .quantized_layers = policy_.quantized_layers,
           .policy_summary = policy_.Summary()};
  stats_.weight_bytes = model_.weights.bytes;
  stats_.worker_kv_limit_bytes = options_.worker_memory_bytes;
  return absl::OkStatus();
}

TurnQuote LlamaEngine::Running() const {
  const std::lock_guard lock(mutex_);
  return busy_.Total();
}

bool LlamaEngine::IsBusy(const SequenceKey& key) const {
  const std::lock_guard lock(mutex_);
  return busy_.Contains(key);
}

absl::StatusOr<TurnId> LlamaEngine::Submit(TurnRequest request, std::shared_ptr<TurnSink> sink) {
  const std::lock_guard lock(mutex_);
  if (stopping_) return absl::UnavailableError("the worker is stopping");
  if (busy_.Contains(request.sequence)) {
    return absl::FailedPreconditionError(
        absl::StrCat("sequence ", request.sequence.name, " already runs a turn"));
  }
  TS_RETURN_IF_ERROR(AdmitTurn(request, limits_, policy_, pool_.shape(), busy_.Total()));
  auto turn = std::make_shared<Turn>();
  turn->id = next_turn_++;
  turn->submitted = Turn::Clock::now();
  turn->sink = std::move(sink);
  turn->request = std::move(request);
  busy_.Add(turn->request.sequence, QuoteTurn(turn->request, limits_, policy_, pool_.shape()));
  turns_[turn->id] = turn;
  wake_.notify_one();
  return turn->id;
}

void LlamaEngine::Cancel(TurnId turn) {
  const std::lock_guard lock(mutex_);
  const auto it = turns_.find(turn);
  if (it != turns_.end()) it->second->cancelled = true;
}

absl::Status LlamaEngine::OnEngineThread(std::function<absl::Status()> work) {
  std::packaged_task<absl::Status()> task(std::move(work));
  std::future<absl::Status> done = task.get_future();
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return absl::UnavailableError("the worker is stopping");
    tasks_.push_back(std::move(task));
  }
  wake_.notify_one();
  return done.get();
}

absl::Status LlamaEngine::Fork(const SequenceKey& parent, const SequenceKey& child) {
  return OnEngineThread([&]() -> absl::Status {
    if (IsBusy(parent)) {
      return absl::FailedPreconditionError(
          absl::StrCat("sequence ", parent.name, " runs a turn: fork it when the turn has ended"));
    }
    return live_->Fork(parent, child);
  });
}

absl::Status LlamaEngine::Remove(const SequenceKey& sequence) {
  return OnEngineThread([&]() -> absl::Status {
    TurnMap turns;
    {
      const std::lock_guard lock(mutex_);
      turns = turns_;
    }
    for (const auto& [id, turn] : turns) {
      if (turn->request.sequence == sequence) Finish(*turn, FinishReason::kCancelled);
    }
    return live_->Remove(sequence);
  });
}

EngineStats LlamaEngine::stats() const {
  EngineStats stats;
  {
    const std::lock_guard lock(mutex_);
    stats = stats_;
    for (const auto& [id, turn] : turns_) {
      ++(turn->stage == TurnStage::kWaiting ? stats.turns_queued : stats.turns_running);
    }
  }
  const auto store = store_->Stats();
  if (store.ok()) stats.store = *store;
  return stats;
}

BatchPlan LlamaEngine::WaitForWork() {
  std::unique_lock lock(mutex_);
  wake_.wait(lock, [this] { return stopping_ || !tasks_.empty() || !turns_.empty(); });
  while (!tasks_.empty()) {
    std::packaged_task<absl::Status()> task = std::move(tasks_.front());
    tasks_.pop_front();
    lock.unlock();
    task();
    lock.lock();
  }
  std::vector<ScheduledTurn> snapshot;
  for (const auto& [id, turn] : turns_) snapshot.push_back({id, turn->stage});
  return PlanBatch(snapshot, options_.max_sequences, options_.max_decode_rows);
}

// Of a plan: its turns end in their own steps and units alone.
std::shared_ptr<Turn> LlamaEngine::Find(TurnId id) const {
  const std::lock_guard lock(mutex_);
  const auto it = turns_.find(id);
  TS_CHECK(it != turns_.end());
  return it->second;
}

void LlamaEngine::Run() {
  while (true) {
    const BatchPlan plan = WaitForWork();
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) break;
    }
    for (const std::vector<TurnId>& together : plan.decode) RunDecode(together);
    if (plan.prefill.has_value()) RunPrefill(Find(*plan.prefill));
    PublishStats();
  }
  TurnMap turns;
  {
    const std::lock_guard lock(mutex_);
    turns = turns_;
  }
  for (const auto& [id, turn] : turns) {
    Finish(*turn, absl::UnavailableError("the worker is stopping"));
  }
  live_->DetachAll();
}

absl::Status LlamaEngine::StartTurn(Turn& turn) {
  turn.sink->OnProgress(TurnPhase::kLoading, 0, 1);
  const TurnQuote running = Running();  // this turn among them
  const auto busy = [this](const SequenceKey& other) { return IsBusy(other); };
  live_->MakeRoom(limits_.IdleBytes(running), options_.max_sequences, busy);
  TS_ASSIGN_OR_RETURN(SequenceCache * cache,
                      live_->Acquire(turn.request.sequence, turn.request.history, turn.mode()));
  return BeginTurn(model_, cache, limits_.SpareBytes(running, live_->IdleBytes(busy)), turn);
}

void LlamaEngine::RunPrefill(const std::shared_ptr<Turn>& turn) {
  if (turn->cancelled) return Finish(*turn, FinishReason::kCancelled);
  if (turn->stage == TurnStage::kWaiting) {
    const absl::Status started = StartTurn(*turn);
    if (!started.ok()) return Finish(*turn, started);
    if (turn->stage == TurnStage::kDecoding) return;  // resumed: its first step is the next batch's
  }
  const absl::Status ran = turn->prefill->RunUnit(buffers_);
  if (!ran.ok()) return DropSequence(*turn, ran);
  turn->sink->OnProgress(TurnPhase::kPrefill, turn->prefill->done_work(),
                         turn->prefill->total_work());
  if (!turn->prefill->done()) return;
  turn->prefill.reset();
  turn->stage = TurnStage::kDecoding;
  AfterLogits(std::span(&turn, 1));
}

void LlamaEngine::RunDecode(std::span<const TurnId> ids) {
  std::vector<std::shared_ptr<Turn>> turns;
  rows_.clear();
  for (const TurnId id : ids) {
    const auto turn = Find(id);
    if (turn->cancelled) {
      Finish(*turn, FinishReason::kCancelled);
    } else {
      rows_.push_back({.token = turn->newest, .cache = turn->cache, .status = {}});
      turns.push_back(turn);
    }
  }
  if (turns.empty()) return;
  DecodeStep(model_, policy_, rows_, buffers_);
  {
    const std::lock_guard lock(mutex_);
    ++stats_.decode_steps;
    stats_.decode_rows += std::ssize(rows_);
  }
  for (size_t i = 0; i < turns.size(); ++i) {
    if (!rows_[i].status.ok()) DropSequence(*turns[i], rows_[i].status);
  }
  AfterLogits(turns);
}

// Row i of the logits is of turns[i]; a turn that was dropped has no cache.
void LlamaEngine::AfterLogits(std::span<const std::shared_ptr<Turn>> turns) {
  std::vector<Turn*> drawing;  // null: its logits are of no use
  for (const std::shared_ptr<Turn>& turn : turns) {
    const bool replays = turn->cache != nullptr && turn->replays();
    if (replays) turn->newest = turn->request.history[turn->cache->tokens()];
    drawing.push_back(turn->cache == nullptr || replays ? nullptr : turn.get());
  }
  const std::span<const Sample> samples = turn_sampler_.Draw(buffers_.logits, drawing);
  for (size_t i = 0; i < drawing.size(); ++i) {
    if (drawing[i] == nullptr) continue;
    const auto reason = EmitToken(samples[i], limits_.context_tokens, *drawing[i]);
    if (reason.has_value()) Finish(*drawing[i], *reason);
  }
}

// A failed step leaves rows half written: the worker forgets the sequence. Bad KV is removed from the
// store as well, so that the next turn recomputes it.
void LlamaEngine::DropSequence(Turn& turn, const absl::Status& error) {
  turn.cache = nullptr;
  turn.prefill.reset();
  const SequenceKey& key = turn.request.sequence;
  const absl::Status dropped =
      absl::IsDataLoss(error) ? live_->Remove(key) : live_->Detach(key);
  if (!dropped.ok()) spdlog::warn("sequence not released: {}", std::string(dropped.message()));
  Finish(turn, error);
}

void LlamaEngine::Finish(Turn& turn, absl::StatusOr<FinishReason> outcome) {
  CompleteReport(turn);
  const bool half_done = turn.prefill != nullptr;
  turn.prefill.reset();
  turn.cache = nullptr;
  // An abandoned prefill left the layers uneven; what was committed before it is in the store.
  if (half_done) (void)live_->Detach(turn.request.sequence);
  std::shared_ptr<Turn> keep;  // `turn` may be the map's last reference
  {
    const std::lock_guard lock(mutex_);
    const auto it = turns_.find(turn.id);
    if (it == turns_.end()) return;
    keep = it->second;
    turns_.erase(it);
    busy_.Remove(turn.request.sequence);
    CountReport(turn.report, stats_);
  }
  if (outcome.ok()) {
    turn.sink->OnFinished(TurnResult{*outcome, turn.report});
  } else {
    turn.sink->OnFinished(outcome.status());
  }
}

void LlamaEngine::PublishStats() {
  const int live = live_->count();
  const int64_t bytes = live_->worker_bytes();
  const std::lock_guard lock(mutex_);
  stats_.sequences_live = live;
  stats_.worker_kv_bytes = bytes;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(const EngineOptions& options,
                                                       std::unique_ptr<ModelFile> model,
                                                       LayerPolicy policy,
                                                       std::unique_ptr<Backend> backend,
                                                       std::unique_ptr<KvClient> store) {
  TS_RETURN_IF_ERROR(options.Validate());
  const Selector selector = RunnableSelector(policy.selector, *backend);
  if (selector != policy.selector) {
    spdlog::info("selector {}: this backend has no selection kernels, the worker's threads select",
                 ToString(policy.selector));
    policy.selector = selector;
  }
  auto engine = std::make_unique<LlamaEngine>(options, std::move(policy), std::move(backend),
                                              std::move(store));
  TS_RETURN_IF_ERROR(engine->Load(*model));
  engine->Start();
  return engine;
}

}  // namespace tailor
