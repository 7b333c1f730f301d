// The client against a scripted worker, through real gRPC.
#include "services/gateway/decoder_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "tests/services/gateway/fake_decoder.h"

namespace tailor {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using Turn = FakeDecoder::Turn;

const grpc::Status kDied(grpc::StatusCode::UNAVAILABLE, "the worker died");

class DecoderClientTest : public ::testing::Test {
 protected:
  absl::StatusOr<v1::GenerateFinished> Generate(const v1::GenerateRequest& request,
                                                int64_t resume_timeout_ms = 60000) {
    DecoderClient client({.address = decoder_.address(), .resume_timeout_ms = resume_timeout_ms});
    return client.Generate(request, {.on_progress =
                                         [this](const v1::TurnProgress& progress) {
                                           phases_.push_back(progress.phase());
                                           return on_progress_;
                                         },
                                     .on_token =
                                         [this](TokenId token) {
                                           tokens_.push_back(token);
                                           return tokens_.size() == stop_after_
                                                      ? TurnControl::kStop
                                                      : TurnControl::kContinue;
                                         },
                                     .on_wait = [this] { return on_wait_; }});
  }

  static v1::GenerateRequest Request() {
    v1::GenerateRequest request;
    request.mutable_sequence()->set_tenant("t");
    request.mutable_sequence()->set_name("s");
    for (const int32_t id : {100, 101, 102}) request.add_history(id);
    request.set_max_new_tokens(10);
    request.add_stop_tokens(99);
    return request;
  }

  FakeDecoder decoder_;
  std::vector<TokenId> tokens_;
  std::vector<v1::TurnPhase> phases_;
  size_t stop_after_ = 0;  // tokens; 0: never
  TurnControl on_progress_ = TurnControl::kContinue, on_wait_ = TurnControl::kContinue;
};

TEST_F(DecoderClientTest, AnUndisturbedTurnPassesEverythingOnAndReportsWhatTheWorkerSays) {
  v1::TurnReport report;
  report.set_generated_tokens(3);
  report.set_time_to_first_token_ms(12345);
  decoder_.NextAnswer({1, 2, 99}, v1::FINISH_REASON_STOP, report);
  const auto finished = Generate(Request());
  ASSERT_TRUE(finished.ok()) << finished.status();
  EXPECT_THAT(tokens_, ElementsAre(1, 2, 99));
  EXPECT_THAT(phases_, ElementsAre(v1::TURN_PHASE_PREFILL));
  EXPECT_EQ(finished->reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(finished->report().SerializeAsString(), report.SerializeAsString());
}

TEST_F(DecoderClientTest, AStreamThatDiesAfterSomeTokensGoesOnBehindThem) {
  decoder_.Next([](Turn& turn) {
    turn.Tokens({1, 2});
    turn.Tokens({3});
    return kDied;
  });
  decoder_.Next([](Turn& turn) {
    turn.Tokens({4});
    return kDied;
  });
  v1::TurnReport last;
  last.set_reused_tokens(7);
  last.set_prefilled_tokens(1);
  last.set_generated_tokens(2);
  last.set_time_to_first_token_ms(1e9);
  decoder_.NextAnswer({5, 6}, v1::FINISH_REASON_LENGTH, last);
  const auto finished = Generate(Request());
  ASSERT_TRUE(finished.ok()) << finished.status();
  EXPECT_THAT(tokens_, ElementsAre(1, 2, 3, 4, 5, 6));
  const auto requests = decoder_.requests();
  ASSERT_THAT(requests, SizeIs(3));
  EXPECT_THAT(requests[1].history(), ElementsAre(100, 101, 102, 1, 2, 3));
  EXPECT_EQ(requests[1].resumed_tokens(), 3);
  EXPECT_EQ(requests[1].max_new_tokens(), 7);
  EXPECT_THAT(requests[2].history(), ElementsAre(100, 101, 102, 1, 2, 3, 4));
  EXPECT_EQ(requests[2].resumed_tokens(), 4);
  EXPECT_EQ(requests[2].max_new_tokens(), 6);
  EXPECT_EQ(requests[2].sequence().name(), "s");
  EXPECT_EQ(finished->reason(), v1::FINISH_REASON_LENGTH);
  // The whole turn's tokens and times; the last worker's account of the KV.
  EXPECT_EQ(finished->report().generated_tokens(), 6);
  EXPECT_EQ(finished->report().reused_tokens(), 7);
  EXPECT_EQ(finished->report().prefilled_tokens(), 1);
  EXPECT_LT(finished->report().time_to_first_token_ms(), 1e9);
  EXPECT_GT(finished->report().decode_ms(), 0);
  EXPECT_EQ(std::count(phases_.begin(), phases_.end(), v1::TURN_PHASE_QUEUED), 2);
}

TEST_F(DecoderClientTest, AWorkerThatIsKilledAndStartedAgainIsFound) {
  std::string pattern = ::testing::TempDir() + "decoder_XXXXXX";
  const std::filesystem::path dir = mkdtemp(pattern.data());
  FakeDecoder worker("unix:" + (dir / "w.sock").string());
  worker.Next([](Turn& turn) {
    turn.Tokens({1});
    turn.AwaitEnd();
    return kDied;
  });
  worker.NextAnswer({2}, v1::FINISH_REASON_LENGTH);
  DecoderClient client({.address = worker.address()});
  std::thread restart;
  std::vector<TokenId> tokens;
  const auto finished =
      client.Generate(Request(), {.on_progress = [](const auto&) { return TurnControl::kContinue; },
                                  .on_token =
                                      [&](TokenId token) {
                                        tokens.push_back(token);
                                        if (token == 1) {
                                          restart = std::thread([&] {
                                            worker.Stop();
                                            worker.Start();
                                          });
                                        }
                                        return TurnControl::kContinue;
                                      },
                                  .on_wait = [] { return TurnControl::kContinue; }});
  restart.join();
  EXPECT_TRUE(finished.ok()) << finished.status();
  EXPECT_THAT(tokens, ElementsAre(1, 2));
  EXPECT_THAT(worker.requests().at(1).history(), ElementsAre(100, 101, 102, 1));
  std::filesystem::remove_all(dir);
}

TEST_F(DecoderClientTest, ATurnWhoseLastTokenWasSeenNeedsNoWorkerToEnd) {
  for (const auto& [tokens, reason] :
       {std::pair(std::vector<TokenId>{1, 99}, v1::FINISH_REASON_STOP),
        std::pair(std::vector<TokenId>(10, 1), v1::FINISH_REASON_LENGTH),
        std::pair(std::vector<TokenId>(12, 1), v1::FINISH_REASON_LENGTH)}) {
    decoder_.Next([tokens = tokens](Turn& turn) {
      turn.Tokens(tokens);
      return kDied;
    });
    tokens_.clear();
    const auto finished = Generate(Request());
    ASSERT_TRUE(finished.ok()) << finished.status();
    EXPECT_EQ(finished->reason(), reason);
    EXPECT_EQ(finished->report().generated_tokens(), static_cast<int64_t>(tokens.size()));
  }
  EXPECT_THAT(decoder_.requests(), SizeIs(3)) << "something was generated again";
}

TEST_F(DecoderClientTest, OnlyADeadWorkerIsAskedAgain) {
  decoder_.Next([](Turn&) {
    return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "turn needs 9 bytes, 8 are free");
  });
  const auto refused = Generate(Request());
  EXPECT_TRUE(absl::IsResourceExhausted(refused.status()));
  EXPECT_EQ(refused.status().message(), "turn needs 9 bytes, 8 are free");
  EXPECT_THAT(decoder_.requests(), SizeIs(1));
}

TEST_F(DecoderClientTest, AWorkerThatDoesNotComeBackIsGivenUp) {
  const auto finished = Generate(Request(), 0);
  EXPECT_TRUE(absl::IsUnavailable(finished.status())) << finished.status();
  EXPECT_THAT(decoder_.requests(), SizeIs(1)) << "a time of 0 allows no second attempt";
}

// The time to come back counts from the death, not from the turn's begin: the second attempt here
// gets its chance although the first took longer than the whole time.
TEST_F(DecoderClientTest, ALongTurnWaitsAsLongForItsWorkerAsAShortOne) {
  constexpr int64_t kResumeMs = 300;
  const auto begin = std::chrono::steady_clock::now();
  decoder_.Next([&](Turn& turn) {
    turn.Tokens({1});
    while (std::chrono::steady_clock::now() < begin + std::chrono::milliseconds(2 * kResumeMs)) {
      turn.Progress(v1::TURN_PHASE_DECODE);
      usleep(10000);
    }
    return kDied;
  });
  decoder_.NextAnswer({2}, v1::FINISH_REASON_LENGTH);
  const auto finished = Generate(Request(), kResumeMs);
  EXPECT_TRUE(finished.ok()) << finished.status();
  EXPECT_THAT(tokens_, ElementsAre(1, 2));
}

TEST_F(DecoderClientTest, AWrongPositionIsInternalAndNamesBoth) {
  decoder_.Next([](Turn& turn) {
    turn.Tokens({1});
    turn.Tokens({2}, /*position_error=*/1);
    return turn.Finished(v1::FINISH_REASON_STOP);
  });
  const auto finished = Generate(Request());
  EXPECT_TRUE(absl::IsInternal(finished.status())) << finished.status();
  EXPECT_EQ(finished.status().message(), "worker sent token 5, next is 4");
  EXPECT_THAT(tokens_, ElementsAre(1));
}

TEST_F(DecoderClientTest, AStreamWithoutAResultIsInternal) {
  decoder_.Next([](Turn& turn) {
    turn.Tokens({1});
    return grpc::Status::OK;
  });
  EXPECT_TRUE(absl::IsInternal(Generate(Request()).status()));
}

TEST_F(DecoderClientTest, AStoppedTurnHasEndedInTheWorkerAndBringsItsReport) {
  stop_after_ = 2;
  auto ended = Turn::EndedBy::kNobody;
  decoder_.Next([&](Turn& turn) {
    turn.Tokens({1});
    turn.Tokens({2, 3});
    ended = turn.AwaitEnd();
    turn.Tokens({4});  // was on its way
    v1::TurnReport report;
    report.set_reused_tokens(77);
    return turn.Finished(v1::FINISH_REASON_CANCELLED, report);
  });
  const auto finished = Generate(Request());
  ASSERT_TRUE(finished.ok()) << finished.status();
  EXPECT_EQ(ended, Turn::EndedBy::kCancelCall);
  EXPECT_THAT(tokens_, ElementsAre(1, 2));
  EXPECT_EQ(finished->reason(), v1::FINISH_REASON_CANCELLED);
  EXPECT_EQ(finished->report().reused_tokens(), 77);
}

TEST_F(DecoderClientTest, AReceiverThatLeavesWhileNothingComesStopsTheTurn) {
  on_wait_ = TurnControl::kStop;
  auto ended = Turn::EndedBy::kNobody;
  decoder_.Next([&](Turn& turn) {
    ended = turn.AwaitEnd();
    return turn.Finished(v1::FINISH_REASON_CANCELLED);
  });
  const auto finished = Generate(Request());
  ASSERT_TRUE(finished.ok()) << finished.status();
  EXPECT_EQ(finished->reason(), v1::FINISH_REASON_CANCELLED);
  EXPECT_NE(ended, Turn::EndedBy::kNobody);
}

TEST_F(DecoderClientTest, AReceiverThatLeavesWhileTheWorkerIsGoneEndsTheTurn) {
  on_progress_ = TurnControl::kStop;
  const auto finished = Generate(Request());  // no script: UNAVAILABLE
  ASSERT_TRUE(finished.ok()) << finished.status();
  EXPECT_EQ(finished->reason(), v1::FINISH_REASON_CANCELLED);
  EXPECT_THAT(phases_, ElementsAre(v1::TURN_PHASE_QUEUED));
  EXPECT_THAT(tokens_, IsEmpty());
}

TEST_F(DecoderClientTest, ControlCallsCarryTheirNamesAndTheWorkersStatus) {
  DecoderClient client({.address = decoder_.address()});
  EXPECT_TRUE(client.Fork("t", "a", "b").ok());
  EXPECT_TRUE(client.Remove("t", "a").ok());
  EXPECT_THAT(decoder_.forks(), ElementsAre("a>b"));
  EXPECT_THAT(decoder_.removed(), ElementsAre("a"));
  decoder_.SetControlStatus({grpc::StatusCode::NOT_FOUND, "no KV of a"});
  EXPECT_TRUE(absl::IsNotFound(client.Fork("t", "a", "c")));
  EXPECT_THAT(std::string(client.Remove("t", "a").message()), HasSubstr("no KV of a"));
}

}  // namespace
}  // namespace tailor
