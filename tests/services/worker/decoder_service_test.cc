// The service over a fake engine, through real gRPC on a loopback port.
#include "services/worker/decoder_service.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "services/grpc_server.h"
#include "tests/services/worker/fake_engine.h"

namespace tailor {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class DecoderServiceTest : public ::testing::Test {
 protected:
  void SetUp() override { StartServer({}); }

  void StartServer(const DecoderServiceOptions& options) {
    server_.reset();
    service_ = std::make_unique<DecoderService>(options, &state_);
    auto server = GrpcServer::Start({.address = "127.0.0.1:0", .services = {service_.get()}});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    stub_ = v1::DecoderService::NewStub(
        grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials()));
    state_.SetServing(engine_);
  }

  v1::GenerateRequest Request(const std::string& name = "s") {
    v1::GenerateRequest request;
    request.mutable_sequence()->set_tenant("t");
    request.mutable_sequence()->set_name(name);
    request.add_history(5);
    request.set_max_new_tokens(10);
    return request;
  }

  static TurnResult Result(FinishReason reason) {
    TurnResult result{.reason = reason, .report = {}};
    result.report.reused_tokens = 7000;
    result.report.bytes = {.store_rows = 123, .sketch = 45, .row_cache = 67};
    return result;
  }

  const std::shared_ptr<FakeEngine> engine_ = std::make_shared<FakeEngine>();
  WorkerState state_;
  std::unique_ptr<DecoderService> service_;
  std::unique_ptr<GrpcServer> server_;
  std::unique_ptr<v1::DecoderService::Stub> stub_;
};

TEST_F(DecoderServiceTest, EventsArriveInOrderAndEndWithOneFinished) {
  grpc::ClientContext context;
  auto stream = stub_->Generate(&context, Request());
  const FakeEngine::FakeTurn turn = engine_->TakeTurn();
  ASSERT_NE(turn.sink, nullptr);
  turn.sink->OnProgress(TurnPhase::kPrefill, 1, 4);
  std::thread engine_thread([&] {
    for (int i = 0; i < 500; ++i) turn.sink->OnToken(i, 100 + i, -1);
    turn.sink->OnFinished(Result(FinishReason::kStopToken));
  });
  int64_t next = 100;
  int finished = 0, progress = 0;
  for (v1::GenerateEvent event; stream->Read(&event);) {
    EXPECT_EQ(finished, 0) << "something came after Finished";
    if (event.has_progress()) {
      ++progress;
      EXPECT_EQ(next, 100) << "progress came after tokens";
      EXPECT_EQ(event.progress().total(), 4);
    } else if (event.has_tokens()) {
      EXPECT_EQ(event.tokens().first_position(), next);
      for (const int32_t id : event.tokens().ids()) EXPECT_EQ(id, next++ - 100);
    } else {
      ++finished;
      EXPECT_EQ(event.finished().reason(), v1::FINISH_REASON_STOP);
      EXPECT_EQ(event.finished().report().reused_tokens(), 7000);
      EXPECT_EQ(event.finished().report().bytes().store_rows(), 123);
      EXPECT_EQ(event.finished().report().bytes().sketch(), 45);
      EXPECT_EQ(event.finished().report().bytes().row_cache(), 67);
    }
  }
  engine_thread.join();
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(next, 600);
  EXPECT_EQ(finished, 1);
  EXPECT_EQ(progress, 1);
}

TEST_F(DecoderServiceTest, AFailedTurnEndsWithItsStatusAndNoFinished) {
  grpc::ClientContext context;
  auto stream = stub_->Generate(&context, Request());
  engine_->TakeTurn().sink->OnFinished(absl::DataLossError("page 3 of layer 2 failed its check"));
  v1::GenerateEvent event;
  EXPECT_FALSE(stream->Read(&event));
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DATA_LOSS);
  EXPECT_EQ(status.error_message(), "page 3 of layer 2 failed its check");
}

TEST_F(DecoderServiceTest, TokensBeforeAFailureAreDelivered) {
  grpc::ClientContext context;
  auto stream = stub_->Generate(&context, Request());
  const FakeEngine::FakeTurn turn = engine_->TakeTurn();
  turn.sink->OnToken(1, 0, 0);
  turn.sink->OnFinished(absl::UnavailableError("the store is gone"));
  v1::GenerateEvent event;
  ASSERT_TRUE(stream->Read(&event));
  EXPECT_THAT(event.tokens().ids(), ElementsAre(1));
  EXPECT_FALSE(stream->Read(&event));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(DecoderServiceTest, ARefusedTurnKeepsTheEnginesWords) {
  engine_->Refuse(absl::ResourceExhaustedError("turn needs 9 bytes, 5 free"));
  grpc::ClientContext context;
  auto stream = stub_->Generate(&context, Request());
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(status.error_message(), "turn needs 9 bytes, 5 free");
}

TEST_F(DecoderServiceTest, AnInvalidRequestNeverReachesTheEngine) {
  v1::GenerateRequest request = Request();
  request.set_max_new_tokens(0);
  grpc::ClientContext context;
  auto stream = stub_->Generate(&context, request);
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("max_new_tokens is 0, limit 1.."));
}

TEST_F(DecoderServiceTest, AClientThatGoesAwayCancelsItsTurn) {
  grpc::ClientContext context;
  auto stream = stub_->Generate(&context, Request());
  const FakeEngine::FakeTurn turn = engine_->TakeTurn();
  context.TryCancel();
  EXPECT_TRUE(engine_->AwaitCancel(turn.id));
  turn.sink->OnFinished(Result(FinishReason::kCancelled));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(DecoderServiceTest, APassedDeadlineCancelsTheTurn) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + milliseconds(200));
  auto stream = stub_->Generate(&context, Request());
  const FakeEngine::FakeTurn turn = engine_->TakeTurn();
  EXPECT_TRUE(engine_->AwaitCancel(turn.id));
  turn.sink->OnFinished(Result(FinishReason::kCancelled));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
}

TEST_F(DecoderServiceTest, CancelEndsTheTurnOfThatSequenceAlone) {
  grpc::ClientContext context_a, context_b;
  auto stream_a = stub_->Generate(&context_a, Request("a"));
  const FakeEngine::FakeTurn a = engine_->TakeTurn(0);
  auto stream_b = stub_->Generate(&context_b, Request("b"));
  const FakeEngine::FakeTurn b = engine_->TakeTurn(1);
  v1::CancelRequest request;
  request.mutable_sequence()->set_tenant("t");
  request.mutable_sequence()->set_name("b");
  v1::CancelResponse response;
  // Generate's registration and this call run on different threads.
  for (int i = 0; i < 100 && !response.was_running(); ++i) {
    grpc::ClientContext context;
    ASSERT_TRUE(stub_->Cancel(&context, request, &response).ok());
  }
  EXPECT_TRUE(response.was_running());
  EXPECT_TRUE(engine_->AwaitCancel(b.id));
  b.sink->OnFinished(Result(FinishReason::kCancelled));
  a.sink->OnFinished(Result(FinishReason::kLength));
  v1::GenerateEvent event;
  ASSERT_TRUE(stream_b->Read(&event));
  EXPECT_EQ(event.finished().reason(), v1::FINISH_REASON_CANCELLED);
  ASSERT_TRUE(stream_a->Read(&event));
  EXPECT_EQ(event.finished().reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_TRUE(stream_a->Finish().ok());
  EXPECT_TRUE(stream_b->Finish().ok());
}

TEST_F(DecoderServiceTest, CancelOfAnIdleSequenceSaysSo) {
  v1::CancelRequest request;
  request.mutable_sequence()->set_tenant("t");
  request.mutable_sequence()->set_name("idle");
  v1::CancelResponse response;
  grpc::ClientContext context;
  ASSERT_TRUE(stub_->Cancel(&context, request, &response).ok());
  EXPECT_FALSE(response.was_running());
}

// 64 KiB is what HTTP/2 lets through to a client that does not read; the engine goes on.
TEST_F(DecoderServiceTest, ASlowReaderDoesNotBlockTheEngineAndLosesNothing) {
  StartServer({.max_queued_tokens = 1 << 20});
  grpc::ClientContext context;
  auto stream = stub_->Generate(&context, Request());
  const FakeEngine::FakeTurn turn = engine_->TakeTurn();
  constexpr int kTokens = 200000;
  const auto start = steady_clock::now();
  for (int i = 0; i < kTokens; ++i) turn.sink->OnToken(i, i, -1);
  turn.sink->OnFinished(Result(FinishReason::kLength));
  EXPECT_LT(steady_clock::now() - start, std::chrono::seconds(10));
  int next = 0;
  bool finished = false;
  for (v1::GenerateEvent event; stream->Read(&event);) {
    for (const int32_t id : event.tokens().ids()) ASSERT_EQ(id, next++);
    finished = event.has_finished();
  }
  EXPECT_EQ(next, kTokens);
  EXPECT_TRUE(finished);
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(DecoderServiceTest, AReaderThatLagsTooFarLosesItsTurn) {
  StartServer({.max_queued_tokens = 1000});
  grpc::ClientContext context;
  auto stream = stub_->Generate(&context, Request());
  const FakeEngine::FakeTurn turn = engine_->TakeTurn();
  for (int i = 0; i < 2000000 && !engine_->AwaitCancelFor(turn.id, milliseconds(0)); ++i) {
    turn.sink->OnToken(i, i, -1);
  }
  EXPECT_TRUE(engine_->AwaitCancel(turn.id));
  turn.sink->OnFinished(Result(FinishReason::kCancelled));
  v1::GenerateEvent event;
  while (stream->Read(&event)) EXPECT_FALSE(event.has_finished());
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("reads too slowly"));
}

TEST_F(DecoderServiceTest, ForkAndRemoveReachTheEngine) {
  v1::ForkRequest fork;
  fork.mutable_parent()->set_tenant("t");
  fork.mutable_parent()->set_name("p");
  fork.mutable_child()->set_tenant("t");
  fork.mutable_child()->set_name("c");
  grpc::ClientContext context, context2, context3;
  v1::ForkResponse forked;
  ASSERT_TRUE(stub_->Fork(&context, fork, &forked).ok());
  EXPECT_THAT(engine_->forks(),
              ElementsAre(std::pair(SequenceKey{"t", "p"}, SequenceKey{"t", "c"})));
  v1::RemoveRequest remove;
  *remove.mutable_sequence() = fork.child();
  v1::RemoveResponse removed;
  ASSERT_TRUE(stub_->Remove(&context2, remove, &removed).ok());
  EXPECT_THAT(engine_->removed(), ElementsAre(SequenceKey{"t", "c"}));
  engine_->SetControlStatus(absl::NotFoundError("no KV"));
  EXPECT_EQ(stub_->Fork(&context3, fork, &forked).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(DecoderServiceTest, AForkNeverCrossesTenants) {
  v1::ForkRequest fork;
  fork.mutable_parent()->set_tenant("a");
  fork.mutable_parent()->set_name("p");
  fork.mutable_child()->set_tenant("b");
  fork.mutable_child()->set_name("c");
  grpc::ClientContext context;
  v1::ForkResponse forked;
  EXPECT_EQ(stub_->Fork(&context, fork, &forked).error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_THAT(engine_->forks(), ElementsAre());
}

TEST_F(DecoderServiceTest, ModelInfoAnswersWhileTheModelLoads) {
  state_.SetLoading("weights", 40, 100);
  v1::GetModelInfoResponse info;
  grpc::ClientContext context, context2;
  ASSERT_TRUE(stub_->GetModelInfo(&context, {}, &info).ok());
  EXPECT_EQ(info.phase(), v1::WORKER_PHASE_LOADING);
  EXPECT_EQ(info.activity(), "weights");
  EXPECT_EQ(info.done(), 40);
  EXPECT_FALSE(info.has_model());
  auto stream = stub_->Generate(&context2, Request());
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("weights, 40%"));
}

TEST_F(DecoderServiceTest, ModelInfoAndStatsComeFromTheEngine) {
  engine_->info_.name = "m";
  engine_->info_.quantized_layers = {0, 3};
  engine_->stats_.worker_kv_bytes = 77;
  engine_->stats_.store.pages_free = 5;
  v1::GetModelInfoResponse info;
  v1::GetWorkerStatsResponse stats;
  grpc::ClientContext context, context2;
  ASSERT_TRUE(stub_->GetModelInfo(&context, {}, &info).ok());
  EXPECT_EQ(info.phase(), v1::WORKER_PHASE_SERVING);
  EXPECT_EQ(info.model().name(), "m");
  EXPECT_EQ(info.model().weights_fingerprint().size(), 64u);
  EXPECT_THAT(info.model().quantized_layers(), ElementsAre(0, 3));
  ASSERT_TRUE(stub_->GetWorkerStats(&context2, {}, &stats).ok());
  EXPECT_EQ(stats.worker_kv_bytes(), 77);
  EXPECT_EQ(stats.store().pages_free(), 5);
}

TEST_F(DecoderServiceTest, ABusyAddressIsRefused) {
  EXPECT_EQ(GrpcServer::Start({.address = server_->address(), .services = {}}).status().code(),
            absl::StatusCode::kAlreadyExists);
}

// Cancel, tokens and the end race on purpose; whatever wins, each call ends once and cleanly.
TEST_F(DecoderServiceTest, RacingCancelsAndFinishesAlwaysEndTheCall) {
  for (int round = 0; round < 50; ++round) {
    grpc::ClientContext context;
    auto stream = stub_->Generate(&context, Request(std::to_string(round)));
    const FakeEngine::FakeTurn turn = engine_->TakeTurn(static_cast<size_t>(round));
    ASSERT_NE(turn.sink, nullptr);
    std::thread engine_thread([&] {
      for (int i = 0; i < round; ++i) turn.sink->OnToken(i, i, 0);
      turn.sink->OnFinished(Result(FinishReason::kLength));
    });
    std::thread canceller([&] { context.TryCancel(); });
    v1::GenerateEvent event;
    while (stream->Read(&event)) {
    }
    const grpc::StatusCode code = stream->Finish().error_code();
    EXPECT_TRUE(code == grpc::StatusCode::OK || code == grpc::StatusCode::CANCELLED) << code;
    engine_thread.join();
    canceller.join();
  }
}

}  // namespace
}  // namespace tailor
