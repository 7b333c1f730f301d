#include "services/worker/event_queue.h"

#include <gtest/gtest.h>

namespace tailor {
namespace {

TEST(EventQueueTest, ConsecutiveTokensAreMergedIntoOneEvent) {
  EventQueue queue(100);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(queue.PushToken(10 + i, 7 + i, -0.5f * i));
  const auto event = queue.Pop()->tokens;
  EXPECT_EQ(event.first_position, 7);
  EXPECT_EQ(event.ids, (std::vector<TokenId>{10, 11, 12}));
  EXPECT_EQ(event.logprobs, (std::vector<float>{0.0f, -0.5f, -1.0f}));
  EXPECT_FALSE(queue.Pop().has_value());
}

TEST(EventQueueTest, ABatchEndsAtItsLimit) {
  EventQueue queue(int64_t{1} << 20);
  for (int64_t i = 0; i <= EventQueue::kMaxBatchTokens; ++i) {
    ASSERT_TRUE(queue.PushToken(1, i, 0));
  }
  EXPECT_EQ(queue.Pop()->tokens.ids.size(), size_t{EventQueue::kMaxBatchTokens});
  EXPECT_EQ(queue.Pop()->tokens.ids.size(), 1u);
}

TEST(EventQueueTest, ProgressOfOnePhaseIsReplacedByItsNewest) {
  EventQueue queue(100);
  queue.PushProgress({TurnPhase::kLoading, 0, 1});
  queue.PushProgress({TurnPhase::kPrefill, 1, 9});
  queue.PushProgress({TurnPhase::kPrefill, 5, 9});
  EXPECT_EQ(queue.Pop()->progress.phase, TurnPhase::kLoading);
  EXPECT_EQ(queue.Pop()->progress.done, 5);
  EXPECT_TRUE(queue.empty());
}

TEST(EventQueueTest, ProgressNeverOvertakesTokens) {
  EventQueue queue(100);
  queue.PushProgress({TurnPhase::kDecode, 1, 9});
  queue.PushToken(1, 0, 0);
  queue.PushProgress({TurnPhase::kDecode, 2, 9});
  EXPECT_EQ(queue.Pop()->kind, QueuedEvent::Kind::kProgress);
  EXPECT_EQ(queue.Pop()->kind, QueuedEvent::Kind::kTokens);
  EXPECT_EQ(queue.Pop()->progress.done, 2);
}

TEST(EventQueueTest, ATokenBeyondTheLimitIsRefusedAndRoomComesBackWithPop) {
  EventQueue queue(2);
  EXPECT_TRUE(queue.PushToken(1, 0, 0));
  EXPECT_TRUE(queue.PushToken(2, 1, 0));
  EXPECT_FALSE(queue.PushToken(3, 2, 0));
  queue.Pop();
  EXPECT_TRUE(queue.PushToken(3, 2, 0));
}

TEST(EventQueueTest, ProgressIsBoundedEvenWhenItCannotBeMerged) {
  EventQueue queue(1000000);
  for (int i = 0; i < 1000; ++i) {
    queue.PushProgress({i % 2 == 0 ? TurnPhase::kPrefill : TurnPhase::kDecode, i, 1000});
  }
  size_t events = 0;
  while (queue.Pop()) ++events;
  EXPECT_LE(events, EventQueue::kMaxProgressDepth);
}

}  // namespace
}  // namespace tailor
