// Conversations that run side by side in one engine, and engines over every way to the store.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <future>
#include <latch>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "common/model_file/model_file.h"
#include "kvstore/client/local_kv_client.h"
#include "kvstore/client/shm_kv_client.h"
#include "kvstore/transport/served_page_store.h"
#include "kvstore/transport/shm_server.h"
#include "tests/kvstore/client/forwarding_control.h"
#include "worker/engine.h"
#include "worker/ops/backend.h"

namespace tailor {

// What a turn's sink saw.
struct Seen {
  std::vector<TokenId> tokens;
  std::vector<float> logprobs;
  absl::Status status;
  FinishReason reason = FinishReason::kStopToken;
  int64_t rows_fetched = 0;
};

inline void ExpectSame(const Seen& got, const Seen& want, const std::string& what) {
  EXPECT_TRUE(got.status.ok()) << what << ": " << got.status;
  EXPECT_EQ(got.tokens, want.tokens) << what;
  EXPECT_EQ(got.logprobs, want.logprobs) << what;
  EXPECT_EQ(got.rows_fetched, want.rows_fetched) << what;
  EXPECT_EQ(got.reason, want.reason) << what;
}

class SeenSink final : public TurnSink {
 public:
  void OnProgress(TurnPhase, int64_t, int64_t) override {
    if (all_submitted != nullptr) all_submitted->wait();
  }
  void OnToken(TokenId token, int64_t, float logprob) override {
    seen_.tokens.push_back(token);
    seen_.logprobs.push_back(logprob);
    if (on_token) on_token(seen_.tokens.size());
  }
  void OnFinished(const absl::StatusOr<TurnResult>& result) override {
    seen_.status = result.status();
    if (result.ok()) {
      seen_.reason = result->reason;
      seen_.rows_fetched = result->report.rows_fetched;
    }
    done_.set_value(seen_);
  }
  Seen Wait() { return done_.get_future().get(); }
  std::function<void(size_t)> on_token;
  std::latch* all_submitted = nullptr;  // holds the engine until then

 private:
  Seen seen_;
  std::promise<Seen> done_;
};

// One or two turns of one sequence, the second right after the first.
struct Conversation {
  std::string name;
  std::vector<TokenId> prompt;
  std::vector<TokenId> question = {};  // none: one turn
  int first_tokens = 8, second_tokens = 8;
  AttentionMode mode = AttentionMode::kHybrid;
  SamplingParams sampling = {};
  size_t cancel_after = 0;                           // tokens of the first turn; 0: never
  std::function<void(size_t tokens)> on_token = {};  // of the first turn, engine thread
};

inline std::vector<TokenId> BytesAsIds(int count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<TokenId> ids(count);
  for (TokenId& id : ids) id = 16 + static_cast<TokenId>(random() % 256);
  return ids;
}

inline Seen RunTurn(Engine& engine, const Conversation& c, std::vector<TokenId> history, int tokens,
                    bool first, std::latch* all_submitted) {
  TurnRequest request;
  request.sequence = {.tenant = "t", .name = c.name};
  request.history = std::move(history);
  request.max_new_tokens = tokens;
  request.attention = c.mode;
  request.sampling = c.sampling;
  const auto sink = std::make_shared<SeenSink>();
  sink->all_submitted = all_submitted;
  std::promise<TurnId> id;
  const auto known = id.get_future().share();
  sink->on_token = [&](size_t count) {
    if (first && c.on_token) c.on_token(count);
    if (first && count == c.cancel_after) engine.Cancel(known.get());
  };
  const auto turn = engine.Submit(std::move(request), sink);
  if (all_submitted != nullptr) all_submitted->count_down();
  if (!turn.ok()) return {.tokens = {}, .logprobs = {}, .status = turn.status()};
  id.set_value(*turn);
  return sink->Wait();
}

inline std::vector<Seen> Converse(Engine& engine, const Conversation& c,
                                  std::latch* all_submitted = nullptr) {
  std::vector<Seen> turns = {RunTurn(engine, c, c.prompt, c.first_tokens, true, all_submitted)};
  if (c.question.empty() || !turns[0].status.ok()) return turns;
  std::vector<TokenId> history = c.prompt;
  history.insert(history.end(), turns[0].tokens.begin(), turns[0].tokens.end());
  history.insert(history.end(), c.question.begin(), c.question.end());
  turns.push_back(RunTurn(engine, c, std::move(history), c.second_tokens, false, nullptr));
  return turns;
}

// All at once, [conversation][turn]: nothing runs before each has submitted its first turn.
inline std::vector<std::vector<Seen>> ConverseTogether(Engine& engine,
                                                       const std::vector<Conversation>& all) {
  std::vector<std::vector<Seen>> seen(all.size());
  std::latch all_submitted(static_cast<std::ptrdiff_t>(all.size()));
  std::vector<std::thread> threads;
  for (size_t i = 0; i < all.size(); ++i) {
    threads.emplace_back([&, i] { seen[i] = Converse(engine, all[i], &all_submitted); });
  }
  for (std::thread& thread : threads) thread.join();
  return seen;
}

// Who selects, and over which client: this process's threads; a store in this process; a served one
// by its ring; that and the doorbell.
enum class Way { kInline, kLocalStore, kServedStore, kDoorbell };

struct BatchSetup {
  Way way = Way::kInline;
  QueryMode query = QueryMode::kExact;
  int32_t max_decode_rows = 16;
  int threads = 1;
};

// An engine over a store of its own. `store` outlives the engine's turns.
struct BatchRig {
  BatchRig(const std::filesystem::path& model_path, const BatchSetup& setup,
           const std::function<void(LayerPolicy&)>& change_policy, int64_t arena_bytes)
      : store(*PageStore::Create({.arena_bytes = arena_bytes})) {
    auto model = *ModelFile::Open(model_path);
    policy = LayerPolicy::Default(model->name(), model->fingerprint(), model->hyperparameters());
    policy.selector = setup.way == Way::kInline ? Selector::kInline : Selector::kStore;
    policy.query = setup.query;
    change_policy(policy);
    const LlamaHyperparameters& shape = model->hyperparameters();
    spec = {.model = model->fingerprint(),
            .policy = policy.fingerprint(),
            .shape = {.layers = shape.layers,
                      .kv_heads = shape.kv_heads,
                      .head_dim = shape.head_dim,
                      .sparse_layers = policy.SparseLayers(shape.layers)},
            .max_bytes = 0};
    auto made_client = MakeClient(setup.way);
    client = made_client.get();
    auto made = Engine::Create(
        {.prefill_chunk_tokens = 512, .max_decode_rows = setup.max_decode_rows}, std::move(model),
        policy,
        *MakeCpuBackend({.threads = setup.threads, .doorbell = setup.way == Way::kDoorbell}),
        std::move(made_client));
    TS_CHECK(made.ok());
    engine = *std::move(made);
  }

  std::unique_ptr<KvClient> MakeClient(Way way) {
    if (way == Way::kInline || way == Way::kLocalStore) {
      return std::make_unique<LocalKvClient>(store);
    }
    static std::atomic<int> sockets{0};
    ShmServerOptions options;
    options.socket_path = absl::StrCat(::testing::TempDir(), "/batch_", ::getpid(), "_",
                                       sockets.fetch_add(1), ".sock");
    served = std::make_unique<ServedPageStore>(store);
    server = *ShmServer::Start(served.get(), options);
    return *ShmKvClient::Connect({.socket_path = options.socket_path},
                                 std::make_unique<ForwardingControl>(served.get()));
  }

  LayerPolicy policy;
  PoolSpec spec;
  std::shared_ptr<PageStore> store;
  std::unique_ptr<ServedPageStore> served;
  std::unique_ptr<ShmServer> server;
  KvClient* client = nullptr;      // the engine's; on its thread
  std::unique_ptr<Engine> engine;  // last: ends first
};

}  // namespace tailor
