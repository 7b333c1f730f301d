// Turns over a real loopback connection: streams, stops, refusals, clients that leave, restarts.
#include "services/gateway/turn.h"

#include <gmock/gmock.h>

#include <future>

#include "tests/services/gateway/chat_fixture.h"

namespace tailor {
namespace {

using grpc::StatusCode;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using Turn = FakeDecoder::Turn;

class TurnTest : public ChatFixture {
 protected:
  void SetUp() override { ASSERT_TRUE(Create("s").ok()); }

  v1::ChatRequest Request(const std::string& message) {
    v1::ChatRequest request;
    request.set_session_id("s");
    request.set_message(message);
    return request;
  }
};

TEST_F(TurnTest, AnAnswerIsStreamedAndStoredAsItWasStreamed) {
  v1::TurnReport report;
  report.set_reused_tokens(41);
  std::vector<TokenId> ids = ByteIds("h\xc3\xa4llo");
  ids.push_back(kTinyEnd);
  decoder_.NextAnswer(ids, v1::FINISH_REASON_STOP, report);
  const ChatResult result = Chat("s", "hi");
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.streamed, "h\xc3\xa4llo");
  EXPECT_EQ(result.finished.text(), result.streamed);
  EXPECT_EQ(result.finished_events, 1);
  EXPECT_EQ(result.progress_events, 1);
  EXPECT_EQ(result.finished.reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(result.finished.report().reused_tokens(), 41);
  EXPECT_EQ(result.finished.session_tokens(), Get("s").session().tokens());
  EXPECT_THAT(Transcript("s"), ElementsAre("SYSTEM: ", "USER: hi", "ASSISTANT: h\xc3\xa4llo"));
}

TEST_F(TurnTest, TheRequestReachesTheWorkerWithItsDefaults) {
  v1::ChatRequest request = Request("hi");
  request.mutable_sampling()->set_seed(7);
  NextAnswer("x");
  ASSERT_TRUE(Chat(request).status.ok());
  request.set_max_tokens(9);
  request.set_attention(v1::ATTENTION_MODE_FULL);
  NextAnswer("x");
  ASSERT_TRUE(Chat(request).status.ok());
  const auto sent = decoder_.requests();
  EXPECT_EQ(sent[0].sequence().tenant(), "default");
  EXPECT_EQ(sent[0].sequence().name(), "s");
  EXPECT_EQ(sent[0].sampling().seed(), 7u);
  EXPECT_EQ(sent[0].max_new_tokens(), 50);
  EXPECT_EQ(sent[0].attention(), v1::ATTENTION_MODE_UNSPECIFIED);
  EXPECT_THAT(sent[0].stop_tokens(), ElementsAre(kTinyEndOfText, kTinyEnd));
  EXPECT_EQ(sent[1].max_new_tokens(), 9);
  EXPECT_EQ(sent[1].attention(), v1::ATTENTION_MODE_FULL);
}

TEST_F(TurnTest, AStopStringEndsTheAnswerBeforeItWithTheWorkersReport) {
  v1::ChatRequest request = Request("hi");
  request.add_stop("STOP");
  decoder_.Next([](Turn& turn) {
    turn.Tokens(ByteIds("go ST"));
    turn.Tokens(ByteIds("OP on"));
    turn.AwaitEnd();
    v1::TurnReport report;
    report.set_prefilled_tokens(5);
    return turn.Finished(v1::FINISH_REASON_CANCELLED, report);
  });
  const ChatResult result = Chat(request);
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.streamed, "go ");
  EXPECT_EQ(result.finished.text(), "go ");
  EXPECT_EQ(result.finished.reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(result.finished.report().prefilled_tokens(), 5);
  // The worker has computed the stop string's tokens too: they are history.
  EXPECT_EQ(sessions_->Entries("s")->back().tokens, ByteIds("go STOP"));
}

TEST_F(TurnTest, TextHeldBackAtTheEndComesInOrderAndOnce) {
  v1::ChatRequest request = Request("hi");
  request.add_stop("STOP");
  std::vector<TokenId> ids = ByteIds("go ST\xc3");  // a stop's beginning, then half a character
  ids.push_back(kTinyEnd);
  decoder_.NextAnswer(ids, v1::FINISH_REASON_STOP);
  EXPECT_EQ(Chat(request).streamed, "go ST\xef\xbf\xbd");
  decoder_.NextAnswer(ByteIds("go ST"), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(Chat(request).streamed, "go ST");
}

TEST_F(TurnTest, BadRequestsAreRefusedWithTheirLimitsAndLeaveNoTrace) {
  std::vector<std::pair<v1::ChatRequest, std::string>> bad;
  bad.emplace_back(Request(""), "message is empty");
  bad.emplace_back(Request(std::string((8 << 20) + 1, 'x')),
                   "message has 8388609 bytes, limit 8388608");
  bad.emplace_back(Request("x"), "max_tokens is -1, limit 0..");
  bad.back().first.set_max_tokens(-1);
  bad.emplace_back(Request("x"), "stop has 17 strings, limit 16");
  for (int i = 0; i < 17; ++i) bad.back().first.add_stop("s");
  bad.emplace_back(Request("x"), "a stop string has 0 bytes, limit 1..256");
  bad.back().first.add_stop("");
  bad.emplace_back(Request("x"), "a stop string has 257 bytes, limit 1..256");
  bad.back().first.add_stop(std::string(257, 's'));
  for (const auto& [request, message] : bad) {
    const ChatResult result = Chat(request);
    EXPECT_EQ(result.status.error_code(), StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(result.status.error_message(), HasSubstr(message));
  }
  EXPECT_THAT(Transcript("s"), IsEmpty());
  EXPECT_THAT(decoder_.requests(), IsEmpty());
}

TEST_F(TurnTest, WhatDoesNotFitTheModelIsRefusedByNumbers) {
  const ChatResult message = Chat("s", std::string(2000, 'x'));
  EXPECT_EQ(message.status.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(message.status.error_message(),
              AllOf(HasSubstr("the model reads 1000"), HasSubstr("0 are left")));
  v1::ChatRequest request = Request("hi");
  request.set_max_tokens(1000);
  const ChatResult answer = Chat(request);
  EXPECT_EQ(answer.status.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(answer.status.error_message(), HasSubstr("1000 asked"));
  EXPECT_THAT(decoder_.requests(), IsEmpty());
}

TEST_F(TurnTest, AnErrorLeavesTheSessionAsItWas) {
  NextAnswer("one");
  ASSERT_TRUE(Chat("s", "first").status.ok());
  const std::vector<std::string> before = Transcript("s");
  decoder_.Next([](Turn& turn) {
    turn.Tokens(ByteIds("half an ans"));
    return grpc::Status(StatusCode::DATA_LOSS, "page 3 of layer 2 failed its check");
  });
  const ChatResult failed = Chat("s", "second");
  EXPECT_EQ(failed.status.error_code(), StatusCode::DATA_LOSS);
  EXPECT_EQ(failed.status.error_message(), "page 3 of layer 2 failed its check");
  EXPECT_EQ(Transcript("s"), before);
  NextAnswer("two");
  EXPECT_TRUE(Chat("s", "second").status.ok()) << "the failed turn still holds the session";
}

TEST_F(TurnTest, ATurnCancelledBeforeItsFirstTokenLeavesNoTrace) {
  decoder_.NextAnswer({}, v1::FINISH_REASON_CANCELLED);
  const ChatResult result = Chat("s", "hi");
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.finished.session_tokens(), 0) << "nothing was added";
  EXPECT_THAT(Transcript("s"), IsEmpty());
}

TEST_F(TurnTest, ASecondTurnOfABusySessionIsRefusedAndOthersAreNot) {
  ASSERT_TRUE(Create("other").ok());
  std::promise<void> go_on;
  decoder_.Next([&](Turn& turn) {
    turn.Tokens(ByteIds("a"));
    go_on.get_future().wait();
    turn.Tokens({kTinyEnd});
    return turn.Finished(v1::FINISH_REASON_STOP);
  });
  auto first = std::async(std::launch::async, [&] { return Chat("s", "first"); });
  ASSERT_TRUE(decoder_.AwaitRequests(1));
  for (const grpc::Status& status :
       {Chat("s", "second").status, Delete("s"), Fork("s", "t"), Attach("s", "d", {"x"})}) {
    EXPECT_EQ(status.error_code(), StatusCode::FAILED_PRECONDITION);
    EXPECT_THAT(status.error_message(), HasSubstr("session s already runs a turn"));
  }
  NextAnswer("b");
  EXPECT_TRUE(Chat("other", "hi").status.ok());
  go_on.set_value();
  EXPECT_TRUE(first.get().status.ok());
  EXPECT_THAT(Transcript("s"), ElementsAre("SYSTEM: ", "USER: first", "ASSISTANT: a"));
}

// As after Ctrl-C: the next message must not be refused because the worker is not done stopping.
TEST_F(TurnTest, AClientThatLeavesMidStreamKeepsWhatWasSaidAndItsNextTurnWaitsForTheEnd) {
  auto ended = Turn::EndedBy::kNobody;
  std::promise<void> asked_to_end, end_now;
  decoder_.Next([&](Turn& turn) {
    turn.Tokens(ByteIds("so far"));
    ended = turn.AwaitEnd();  // nothing more is written: the gateway must look by itself
    asked_to_end.set_value();
    end_now.get_future().wait();
    return turn.Finished(v1::FINISH_REASON_CANCELLED);
  });
  {
    grpc::ClientContext context;
    auto reader = stub_->Chat(&context, Request("first"));
    std::string text;
    for (v1::ChatEvent event; text.size() < 6 && reader->Read(&event);) text += event.text();
    EXPECT_EQ(text, "so far");
    context.TryCancel();
    EXPECT_EQ(reader->Finish().error_code(), StatusCode::CANCELLED);
  }
  NextAnswer("again");
  asked_to_end.get_future().wait();
  auto second = std::async(std::launch::async, [&] { return Chat("s", "second"); });
  EXPECT_EQ(second.wait_for(std::chrono::milliseconds(50)), std::future_status::timeout)
      << "it did not wait";
  end_now.set_value();
  const ChatResult next = second.get();
  EXPECT_TRUE(next.status.ok()) << next.status.error_message();
  EXPECT_EQ(ended, Turn::EndedBy::kCancelCall)
      << "the worker's turn had ended before the next began";
  EXPECT_THAT(Transcript("s"), ElementsAre("SYSTEM: ", "USER: first", "ASSISTANT: so far",
                                           "USER: second", "ASSISTANT: again"));
}

TEST_F(TurnTest, AClientThatNeverReadsHoldsUpNobodyElse) {
  ASSERT_TRUE(Create("other").ok());
  decoder_.Next([](Turn& turn) {
    // More than gRPC's windows take: the gateway's writes block.
    for (int i = 0; i < 100; ++i) turn.Tokens(std::vector<TokenId>(1000, 'x'));
    turn.AwaitEnd();
    return turn.Finished(v1::FINISH_REASON_CANCELLED);
  });
  grpc::ClientContext context;
  auto reader = stub_->Chat(&context, Request("first"));
  ASSERT_TRUE(decoder_.AwaitRequests(1));
  NextAnswer("quick");
  EXPECT_EQ(Chat("other", "hi").streamed, "quick");
  EXPECT_EQ(Delete("s").error_code(), StatusCode::FAILED_PRECONDITION);
  context.TryCancel();
  (void)reader->Finish();
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!Delete("s").ok()) {
    ASSERT_LT(std::chrono::steady_clock::now(), end)
        << "the client has gone, its session is still held";
  }
}

TEST_F(TurnTest, AWorkerThatDiesMidAnswerIsNotNoticedInTheText) {
  decoder_.Next([](Turn& turn) {
    turn.Tokens(ByteIds("hel\xc3"));
    return grpc::Status(StatusCode::UNAVAILABLE, "died");
  });
  std::vector<TokenId> rest = ByteIds("\xa4lo");
  rest.push_back(kTinyEnd);
  decoder_.NextAnswer(rest, v1::FINISH_REASON_STOP);
  const ChatResult result = Chat("s", "hi");
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.streamed, "hel\xc3\xa4lo");
  EXPECT_EQ(result.finished.report().generated_tokens(), 8);
  EXPECT_THAT(Transcript("s").back(), "ASSISTANT: hel\xc3\xa4lo");
}

TEST_F(TurnTest, WithoutAWorkerATurnIsUnavailableAndLeavesNoTrace) {
  resume_timeout_ms_ = 0;
  Restart();
  const ChatResult result = Chat("s", "hi");
  EXPECT_EQ(result.status.error_code(), StatusCode::UNAVAILABLE);
  EXPECT_THAT(Transcript("s"), IsEmpty());
}

TEST_F(TurnTest, AnotherGatewayOnTheSameDatabaseGoesOnTokenForToken) {
  ASSERT_TRUE(Attach("s", "d.txt", {"a text"}).ok());
  NextAnswer("one");
  ASSERT_TRUE(Chat("s", "first").status.ok());
  const std::vector<std::string> before = Transcript("s");
  Restart();
  EXPECT_EQ(Transcript("s"), before);
  NextAnswer("two");
  ASSERT_TRUE(Chat("s", "second").status.ok());
  const auto requests = decoder_.requests();
  std::vector<int32_t> expected(requests[0].history().begin(), requests[0].history().end());
  for (const TokenId id : ByteIds("one")) expected.push_back(id);
  expected.push_back(kTinyEnd);
  ASSERT_GT(requests[1].history_size(), static_cast<int>(expected.size()));
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), requests[1].history().begin()));
}

TEST_F(TurnTest, AGatewayThatEndsDuringATurnKeepsWhatWasSaid) {
  decoder_.Next([](Turn& turn) {
    turn.Tokens(ByteIds("so far"));
    turn.AwaitEnd();
    return turn.Finished(v1::FINISH_REASON_CANCELLED);
  });
  grpc::ClientContext context;
  auto reader = stub_->Chat(&context, Request("first"));
  std::string text;
  for (v1::ChatEvent event; text.size() < 6 && reader->Read(&event);) text += event.text();
  Restart();
  EXPECT_FALSE(reader->Finish().ok());
  EXPECT_THAT(Transcript("s"), ElementsAre("SYSTEM: ", "USER: first", "ASSISTANT: so far"));
}

}  // namespace
}  // namespace tailor
