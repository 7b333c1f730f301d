#include "services/worker/request_parser.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>

namespace tailor {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

v1::GenerateRequest GoodRequest() {
  v1::GenerateRequest request;
  request.mutable_sequence()->set_tenant("t");
  request.mutable_sequence()->set_name("s");
  request.add_history(5);
  request.add_history(6);
  request.set_max_new_tokens(10);
  return request;
}

TEST(RequestParserTest, AGoodRequestKeepsEveryField) {
  v1::GenerateRequest request = GoodRequest();
  request.set_attention(v1::ATTENTION_MODE_FULL);
  request.add_stop_tokens(2);
  request.mutable_sampling()->set_temperature(0.5f);
  request.mutable_sampling()->set_seed(99);
  const absl::StatusOr<TurnRequest> turn = ParseTurnRequest(request, AttentionMode::kHybrid);
  ASSERT_TRUE(turn.ok()) << turn.status();
  EXPECT_EQ(turn->sequence, (SequenceKey{"t", "s"}));
  EXPECT_THAT(turn->history, ElementsAre(5, 6));
  EXPECT_THAT(turn->stop_tokens, ElementsAre(2));
  EXPECT_EQ(turn->attention, AttentionMode::kFull);
  EXPECT_EQ(turn->max_new_tokens, 10);
  EXPECT_EQ(turn->sampling.temperature, 0.5f);
  EXPECT_EQ(turn->sampling.seed, 99u);
  EXPECT_EQ(turn->sampling.top_p, 1.0f) << "absent fields keep their defaults";
}

TEST(RequestParserTest, AttentionFallsBackToTheWorkersDefault) {
  EXPECT_EQ(ParseTurnRequest(GoodRequest(), AttentionMode::kFull)->attention, AttentionMode::kFull);
}

struct BadCase {
  std::function<void(v1::GenerateRequest&)> spoil;
  const char* message;
};

TEST(RequestParserTest, EachBadFieldIsRefusedWithThingValueAndLimit) {
  const std::vector<BadCase> cases = {
      {[](auto& r) { r.clear_history(); }, "history has 0 ids, limit 1.."},
      {[](auto& r) { r.add_history(-3); }, "history[2] is -3, limit 0.."},
      {[](auto& r) { r.set_resumed_tokens(2); }, "resumed_tokens is 2, limit 0..1"},
      {[](auto& r) { r.set_resumed_tokens(-1); }, "resumed_tokens is -1, limit 0..1"},
      {[](auto& r) { r.set_max_new_tokens(0); }, "max_new_tokens is 0, limit 1.."},
      {[](auto& r) { r.set_max_new_tokens(1 << 30); }, "max_new_tokens is 1073741824"},
      {[](auto& r) { r.add_stop_tokens(-1); }, "stop_tokens[0] is -1"},
      {[](auto& r) {
         for (int i = 0; i < 65; ++i) r.add_stop_tokens(i);
       },
       "stop_tokens has 65 ids, limit 64"},
      {[](auto& r) { r.mutable_sequence()->set_tenant(std::string(257, 'x')); },
       "sequence: tenant has 257 bytes"},
      {[](auto& r) { r.mutable_sequence()->clear_name(); }, "sequence: sequence name has 0 bytes"},
      {[](auto& r) { r.mutable_sequence()->set_name(std::string(257, 'x')); }, "has 257 bytes"},
      {[](auto& r) { r.set_attention(static_cast<v1::AttentionMode>(9)); }, "attention is 9"},
      {[](auto& r) { r.mutable_sampling()->set_temperature(101); }, "temperature is 101"},
      {[](auto& r) { r.mutable_sampling()->set_top_p(std::numeric_limits<float>::quiet_NaN()); },
       "top_p is nan"},
      {[](auto& r) { r.mutable_sampling()->set_top_k(-1); }, "top_k is -1"},
  };
  for (const BadCase& bad : cases) {
    v1::GenerateRequest request = GoodRequest();
    bad.spoil(request);
    const absl::Status status = ParseTurnRequest(request, AttentionMode::kHybrid).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad.message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(bad.message));
  }
}

}  // namespace
}  // namespace tailor
