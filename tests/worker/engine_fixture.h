// An engine over a tiny model of random weights and a store in this process.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <future>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "common/model_file/model_file.h"
#include "kvstore/client/local_kv_client.h"
#include "tests/support/tiny_model.h"
#include "worker/engine.h"
#include "worker/ops/backend.h"

namespace tailor {

struct Outcome {
  std::vector<TokenId> tokens;
  std::vector<float> logprobs;
  absl::StatusOr<TurnResult> result = absl::UnknownError("not finished");
};

// Collects a turn; optionally cancels it after a number of tokens.
class CollectingSink final : public TurnSink {
 public:
  void OnProgress(TurnPhase, int64_t done, int64_t total) override { EXPECT_LE(done, total); }
  void OnToken(TokenId token, int64_t position, float logprob) override {
    if (next_position_ >= 0) {
      EXPECT_EQ(position, next_position_);
    }
    next_position_ = position + 1;
    outcome_.tokens.push_back(token);
    outcome_.logprobs.push_back(logprob);
    if (on_token) on_token(outcome_.tokens.size());
  }
  void OnFinished(const absl::StatusOr<TurnResult>& result) override {
    outcome_.result = result;
    done_.set_value(outcome_);
  }
  Outcome Wait() { return done_.get_future().get(); }
  std::function<void(size_t)> on_token;

 private:
  int64_t next_position_ = -1;
  Outcome outcome_;
  std::promise<Outcome> done_;
};

inline std::vector<TokenId> RandomIds(int count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<TokenId> ids(count);
  for (TokenId& id : ids) id = 16 + static_cast<TokenId>(random() % 256);
  return ids;
}

struct Variant {
  int threads = 1;
  int32_t chunk = 64;
  Selector selector = Selector::kInline;
  QueryMode query = QueryMode::kExact;
  int32_t top_k = 32;
  int32_t bits = 4;
  int64_t worker_memory_bytes = 0;
  int32_t max_sequences = 8;
  int32_t check_every_tokens = 256;
  float mass_floor = 0;
  bool quantizes = true;  // layer 0
  bool far_host_memory = false;
  int64_t device_memory_bytes = 0;
};

class EngineTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    scratch_ = new ScratchDir();
    WriteTinyModel(*scratch_ / "tiny.gguf", {.context_tokens = 8192});
  }
  static void TearDownTestSuite() {
    delete scratch_;
    scratch_ = nullptr;
  }

  void SetUp() override { store_ = MakeStore(int64_t{96} << 20); }

  static std::shared_ptr<PageStore> MakeStore(int64_t arena_bytes) {
    auto store = PageStore::Create({.arena_bytes = arena_bytes});
    EXPECT_TRUE(store.ok()) << store.status();
    return *std::move(store);
  }

  std::unique_ptr<Engine> MakeEngine(const Variant& setup = {}) {
    auto model = ModelFile::Open(*scratch_ / "tiny.gguf");
    EXPECT_TRUE(model.ok()) << model.status();
    LayerPolicy policy =
        LayerPolicy::Default("tiny", (*model)->fingerprint(), (*model)->hyperparameters());
    policy.selector = setup.selector;
    policy.query = setup.query;
    policy.select.top_k = setup.top_k;
    policy.bits = setup.bits;
    policy.check_every_tokens = setup.check_every_tokens;
    policy.mass_floor = setup.mass_floor;
    if (!setup.quantizes) policy.quantized_layers.clear();
    auto backend = MakeCpuBackend({.threads = setup.threads,
                                   .memory_limit_bytes = setup.device_memory_bytes,
                                   .far_host_memory = setup.far_host_memory});
    EXPECT_TRUE(backend.ok()) << backend.status();
    auto engine = Engine::Create({.worker_memory_bytes = setup.worker_memory_bytes,
                                  .prefill_chunk_tokens = setup.chunk,
                                  .max_sequences = setup.max_sequences},
                                 *std::move(model), policy, *std::move(backend),
                                 std::make_unique<LocalKvClient>(store_));
    EXPECT_TRUE(engine.ok()) << engine.status();
    return *std::move(engine);
  }

  static TurnRequest Request(const std::string& name, std::vector<TokenId> history, int new_tokens,
                             AttentionMode mode = AttentionMode::kHybrid) {
    TurnRequest request;
    request.sequence = {.tenant = "t", .name = name};
    request.history = std::move(history);
    request.max_new_tokens = new_tokens;
    request.attention = mode;
    return request;
  }

  static Outcome Run(Engine& engine, TurnRequest request) {
    auto sink = std::make_shared<CollectingSink>();
    const auto turn = engine.Submit(std::move(request), sink);
    if (!turn.ok()) return {.tokens = {}, .logprobs = {}, .result = turn.status()};
    return sink->Wait();
  }

  static std::vector<TokenId> Concat(std::vector<TokenId> a, const std::vector<TokenId>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  }

  static inline ScratchDir* scratch_ = nullptr;
  std::shared_ptr<PageStore> store_;
};

}  // namespace tailor
