// The engine over a served store and the doorbell, wired by itself: the tokens of the engine whose
// own threads select, with exact and predicted queries, one turn and several at once.
#include <gtest/gtest.h>
#include <unistd.h>

#include <future>
#include <random>
#include <string>
#include <vector>

#include "common/model_file/model_file.h"
#include "kvstore/client/local_kv_client.h"
#include "kvstore/client/shm_kv_client.h"
#include "kvstore/transport/served_page_store.h"
#include "kvstore/transport/shm_server.h"
#include "tests/kvstore/client/forwarding_control.h"
#include "tests/support/tiny_model.h"
#include "worker/engine.h"
#include "worker/ops/backend.h"

namespace tailor {
namespace {

struct Answer {
  std::vector<TokenId> tokens;
  std::vector<float> logprobs;
  absl::Status status;
  int64_t rows_fetched = 0;
};

class AnswerSink final : public TurnSink {
 public:
  void OnProgress(TurnPhase, int64_t, int64_t) override {}
  void OnToken(TokenId token, int64_t, float logprob) override {
    answer_.tokens.push_back(token);
    answer_.logprobs.push_back(logprob);
  }
  void OnFinished(const absl::StatusOr<TurnResult>& result) override {
    answer_.status = result.status();
    if (result.ok()) answer_.rows_fetched = result->report.rows_fetched;
    done_.set_value(answer_);
  }
  Answer Wait() { return done_.get_future().get(); }

 private:
  Answer answer_;
  std::promise<Answer> done_;
};

std::shared_ptr<PageStore> NewStore() {
  return *PageStore::Create({.arena_bytes = int64_t{96} << 20});
}

class DoorbellEngineTest : public ::testing::Test {
 protected:
  DoorbellEngineTest() { WriteTinyModel(scratch_ / "tiny.gguf", {.context_tokens = 8192}); }
  std::unique_ptr<Engine> MakeEngine(Selector selector, QueryMode query, bool doorbell,
                                     std::unique_ptr<KvClient> client) {
    auto model = *ModelFile::Open(scratch_ / "tiny.gguf");
    LayerPolicy policy =
        LayerPolicy::Default("tiny", model->fingerprint(), model->hyperparameters());
    policy.selector = selector;
    policy.query = query;
    policy.select.top_k = 32;
    policy.check_every_tokens = 8;
    return *Engine::Create({}, std::move(model), policy,
                           *MakeCpuBackend({.threads = 1, .doorbell = doorbell}),
                           std::move(client));
  }
  std::unique_ptr<Engine> Plain(QueryMode query) {
    return MakeEngine(Selector::kInline, query, false, std::make_unique<LocalKvClient>(NewStore()));
  }
  // With a store of its own, served; the engine that was made before it has ended.
  std::unique_ptr<Engine> OverTheDoorbell(QueryMode query) {
    server_.reset();
    served_ = std::make_unique<ServedPageStore>(NewStore());
    ShmServerOptions options;
    options.socket_path = ::testing::TempDir() + "/doorbell_engine_" + std::to_string(::getpid());
    server_ = *ShmServer::Start(served_.get(), options);
    auto client = *ShmKvClient::Connect({.socket_path = options.socket_path},
                                        std::make_unique<ForwardingControl>(served_.get()));
    client_ = client.get();
    return MakeEngine(Selector::kStore, query, true, std::move(client));
  }
  static std::shared_ptr<AnswerSink> Start(Engine& engine, const std::string& name, uint64_t seed) {
    std::mt19937_64 random(seed);
    TurnRequest request;
    request.sequence = {.tenant = "t", .name = name};
    for (int i = 0; i < 600; ++i) {
      request.history.push_back(16 + static_cast<TokenId>(random() % 256));
    }
    request.max_new_tokens = 40;
    auto sink = std::make_shared<AnswerSink>();
    TS_CHECK(engine.Submit(std::move(request), sink).ok());
    return sink;
  }

  ScratchDir scratch_;
  std::unique_ptr<ServedPageStore> served_;
  std::unique_ptr<ShmServer> server_;
  KvClient* client_ = nullptr;  // the engine's
};

TEST_F(DoorbellEngineTest, TurnsHaveTheTokensOfAnEngineWhoseOwnThreadsSelect) {
  for (const QueryMode query : {QueryMode::kExact, QueryMode::kPredicted}) {
    const auto plain = Plain(query), rung = OverTheDoorbell(query);
    std::vector<std::shared_ptr<AnswerSink>> want, got;
    for (uint64_t turn = 0; turn < 3; ++turn) {  // side by side: their steps take turns
      want.push_back(Start(*plain, std::to_string(turn), turn));
      got.push_back(Start(*rung, std::to_string(turn), turn));
    }
    for (size_t turn = 0; turn < want.size(); ++turn) {
      const Answer expected = want[turn]->Wait(), answer = got[turn]->Wait();
      ASSERT_TRUE(expected.status.ok()) << expected.status;
      ASSERT_TRUE(answer.status.ok()) << answer.status;
      EXPECT_EQ(answer.tokens, expected.tokens);
      EXPECT_EQ(answer.logprobs, expected.logprobs);
      EXPECT_EQ(answer.rows_fetched, expected.rows_fetched);
      EXPECT_GT(answer.rows_fetched, 0);
    }
    EXPECT_EQ(client_->PostSelect({}).status().code(), absl::StatusCode::kFailedPrecondition)
        << "no selection was promised: the doorbell was not used";
  }
}

TEST_F(DoorbellEngineTest, ATurnAfterTheStoreHasGoneFails) {
  const auto rung = OverTheDoorbell(QueryMode::kPredicted);
  const Answer first = Start(*rung, "a", 1)->Wait();
  ASSERT_TRUE(first.status.ok()) << first.status;
  server_.reset();
  EXPECT_FALSE(Start(*rung, "b", 2)->Wait().status.ok());
}

}  // namespace
}  // namespace tailor
