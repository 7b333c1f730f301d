#include "services/gateway/turn_clock.h"

#include <gtest/gtest.h>

namespace tailor {
namespace {

// Times are whole milliseconds: doubles hold them exactly.
TurnClock::TimePoint At(int64_t ms) { return TurnClock::TimePoint(std::chrono::milliseconds(ms)); }

v1::TurnReport Written(const TurnClock& clock) {
  v1::TurnReport report;
  clock.WriteTo(&report);
  return report;
}

TEST(TurnClockTest, ATurnIsQueuedThenPrefilledThenDecoded) {
  TurnClock clock(At(1000));
  clock.OnProgress(v1::TURN_PHASE_QUEUED, At(1100));
  clock.OnProgress(v1::TURN_PHASE_LOADING, At(1200));
  clock.OnProgress(v1::TURN_PHASE_PREFILL, At(1300));
  for (const int64_t ms : {1700, 1800, 2200}) clock.OnToken(At(ms));
  const v1::TurnReport report = Written(clock);
  EXPECT_EQ(report.queue_ms(), 200);
  EXPECT_EQ(report.prefill_ms(), 500);
  EXPECT_EQ(report.time_to_first_token_ms(), 700);
  EXPECT_EQ(report.decode_ms(), 500);
  EXPECT_EQ(report.tokens_per_second(), 4);
  EXPECT_EQ(report.generated_tokens(), 3);
}

TEST(TurnClockTest, AnAttemptWithoutATokenWasWaiting) {
  TurnClock clock(At(0));
  clock.OnProgress(v1::TURN_PHASE_PREFILL, At(10));
  clock.OnAttempt(At(5000));
  clock.OnProgress(v1::TURN_PHASE_PREFILL, At(5100));
  clock.OnToken(At(5400));
  EXPECT_EQ(Written(clock).queue_ms(), 5100);
  EXPECT_EQ(Written(clock).prefill_ms(), 300);
  EXPECT_EQ(Written(clock).time_to_first_token_ms(), 5400);
}

TEST(TurnClockTest, AnOutageAfterTheFirstTokenIsPartOfDecoding) {
  TurnClock clock(At(0));
  clock.OnProgress(v1::TURN_PHASE_PREFILL, At(100));
  clock.OnToken(At(300));
  clock.OnAttempt(At(2000));
  clock.OnProgress(v1::TURN_PHASE_PREFILL, At(2100));
  clock.OnToken(At(2300));
  EXPECT_EQ(Written(clock).queue_ms(), 100);
  EXPECT_EQ(Written(clock).prefill_ms(), 200);
  EXPECT_EQ(Written(clock).time_to_first_token_ms(), 300);
  EXPECT_EQ(Written(clock).decode_ms(), 2000);
  EXPECT_EQ(Written(clock).tokens_per_second(), 0.5);
}

TEST(TurnClockTest, WithoutASecondTokenThereIsNoRateAndNothingIsDividedByZero) {
  TurnClock none(At(0)), one(At(0)), together(At(0));
  one.OnToken(At(7));
  together.OnToken(At(7));
  together.OnToken(At(7));
  EXPECT_EQ(Written(none).time_to_first_token_ms(), 0);
  EXPECT_EQ(Written(one).time_to_first_token_ms(), 7);
  for (const TurnClock& clock : {none, one, together}) {
    EXPECT_EQ(Written(clock).tokens_per_second(), 0);
    EXPECT_EQ(Written(clock).decode_ms(), 0);
  }
}

}  // namespace
}  // namespace tailor
