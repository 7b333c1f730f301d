// The doorbell's protocol against a fake device: threads play stream and kernel, the store's own
// threads answer from a real page store. docs/decisions/0006-doorbell.md names the hazards.
#include "worker/cache/doorbell_line.h"

#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "tests/worker/cache/doorbell_rig.h"

namespace tailor {
namespace {

std::vector<int> RandomQueries(std::mt19937& random, size_t count) {
  std::vector<int> queries(count);
  for (int& query : queries) query = static_cast<int>(random() % DoorbellRig::kQueries);
  return queries;
}

TEST(DoorbellLineTest, ThousandsOfDelayedSelectionsFetchThePlainFetchersRows) {
  for (const uint32_t seed : {1u, 2u, 3u}) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    DoorbellRig rig({.seed = seed});
    rig.store().random_delays = true;
    std::mt19937 random(seed);
    const auto one = rig.NewFetcher(), other = rig.NewFetcher();
    for (int step = 0; step < 300; ++step) {
      RowFetcher& fetcher = random() % 2 == 0 ? *one : *other;
      const absl::Status done = rig.Step(fetcher, RandomQueries(random, 1 + random() % 8));
      ASSERT_TRUE(done.ok()) << "step " << step << ": " << done;
      if (::testing::Test::HasFailure()) return;
    }
  }
}

TEST(DoorbellLineTest, TheHostEnqueuesAWholeStepBeforeTheStoreHasAnsweredAnything) {
  DoorbellRig rig;
  const auto fetcher = rig.NewFetcher();
  rig.store().HoldAll();
  std::vector<FetchedRows> got(12);
  ASSERT_TRUE(rig.Post(*fetcher, 1, 0).ok());
  for (int i = 0; i < 12; ++i) {
    if (i + 1 < 12) {
      ASSERT_TRUE(rig.Post(*fetcher, 1, (i + 1) % 8).ok());
    }
    ASSERT_TRUE(rig.Take(*fetcher, 1, &got[i]).ok());
  }
  rig.store().LetAll();
  EXPECT_TRUE(fetcher->Settle().ok());
  rig.device().Synchronize();
  for (int i = 0; i < 12; ++i) EXPECT_EQ(got[i], rig.Answer(1, i % 8)) << i;
}

// Two are in the store's hands at once; each is late. The one that comes back first must not
// release the wait for the other.
TEST(DoorbellLineTest, ALateAnswerReleasesNoLaterWait) {
  DoorbellRig rig({.select_deadline_ms = 300});
  const auto fetcher = rig.NewFetcher();
  const int64_t first = rig.store().arrived();
  rig.store().HoldAll();
  EXPECT_EQ(rig.Step(*fetcher, {0}).code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(rig.device().answered(), 1u) << "the stream was released all the same";

  FetchedRows got;
  ASSERT_TRUE(rig.Post(*fetcher, 2, 3).ok());
  ASSERT_TRUE(rig.Take(*fetcher, 2, &got).ok());
  rig.store().AwaitArrivals(first + 2);
  rig.store().Let(first);
  PromisedSelects& selects = *rig.client().promised_selects();
  const PostedSelect late = {.ticket = DoorbellRig::kFirstTicket, .deadline_ns = INT64_MAX};
  while (!selects.Ended(late)) std::this_thread::yield();
  // It is there, and not what the stream waits for. (A machine slow enough for the second to pass
  // its deadline in this time releases it with an error, which Settle shows.)
  const uint64_t seen = rig.device().answered();
  rig.store().LetAll();
  const absl::Status settled = fetcher->Settle();
  rig.device().Synchronize();
  if (settled.ok()) {
    EXPECT_EQ(seen, 1u);
    EXPECT_EQ(got, rig.Answer(2, 3));
  } else {
    EXPECT_EQ(settled.code(), absl::StatusCode::kDeadlineExceeded);
  }
  // Once the store has caught up, a step goes through: nothing of the failed ones is left.
  absl::Status step;
  do {
    step = rig.Step(*fetcher, {1, 2, 3, 4, 5, 6});
  } while (!step.ok());
}

TEST(DoorbellLineTest, AFailedSelectionReleasesTheRestOfItsStepUnserved) {
  DoorbellRig rig({.select_deadline_ms = 100});
  const auto fetcher = rig.NewFetcher();
  const int64_t before = rig.store().arrived();
  rig.store().HoldAll();
  EXPECT_EQ(rig.Step(*fetcher, {0, 1, 2, 3, 4, 5, 6, 7}).code(),
            absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(rig.device().answered(), 8u);
  EXPECT_LE(rig.store().arrived() - before, 2) << "the two that were posted before it failed";
}

TEST(DoorbellLineTest, AStoreThatDiesInMidWaitReleasesTheStreamAndFailsTheStep) {
  DoorbellRig rig;
  const auto fetcher = rig.NewFetcher();
  const int64_t before = rig.store().arrived();
  rig.store().HoldAll();
  FetchedRows got;
  ASSERT_TRUE(rig.Post(*fetcher, 1, 0).ok());
  ASSERT_TRUE(rig.Take(*fetcher, 1, &got).ok());
  rig.store().AwaitArrivals(before + 1);
  std::thread killer([&] { rig.EndServer(); });  // hangs up, then waits for its held thread
  EXPECT_EQ(fetcher->Settle().code(), absl::StatusCode::kUnavailable);
  rig.device().Synchronize();
  rig.store().LetAll();
  killer.join();
  EXPECT_EQ(rig.Step(*fetcher, {1, 2, 3}).code(), absl::StatusCode::kUnavailable)
      << "and so does every later one, at once";
}

TEST(DoorbellLineTest, ADeviceThatNeverRingsIsGivenUpAtItsDeadline) {
  DoorbellRig rig({.line = {.spin_us = 0, .nap_us = 20, .ring_deadline_ms = 30}});
  const auto fetcher = rig.NewFetcher();
  const int64_t before = rig.store().arrived();
  rig.device().Die();
  ASSERT_TRUE(rig.Post(*fetcher, 1, 0).ok());
  ASSERT_TRUE(fetcher->Take(1).ok());
  EXPECT_EQ(fetcher->Settle().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(rig.store().arrived(), before);
}

TEST(DoorbellLineTest, AnAnswerWithFewerRowsThanTheDeviceWasToldIsDataLoss) {
  DoorbellRig rig;
  const auto fetcher = rig.NewFetcher();
  rig.store().short_answers = true;
  EXPECT_EQ(rig.Step(*fetcher, {0, 1}).code(), absl::StatusCode::kDataLoss);
  rig.store().short_answers = false;
  EXPECT_TRUE(rig.Step(*fetcher, {0, 1}).ok());
}

TEST(DoorbellLineTest, AStoreOfAnotherEpochServesNothing) {
  DoorbellRig rig;
  const auto fetcher = rig.NewFetcher();
  const int64_t before = rig.store().arrived();
  rig.store().epoch_shift = 1;
  EXPECT_FALSE(rig.Step(*fetcher, {0, 1}).ok());
  EXPECT_EQ(rig.store().arrived(), before);
  rig.store().epoch_shift = 0;
  EXPECT_TRUE(rig.Step(*fetcher, {2, 3}).ok());
}

TEST(DoorbellLineTest, AHandleOfAnEarlierLifeIsRefusedAndReleasesTheStream) {
  DoorbellRig rig;
  const auto fetcher = rig.NewFetcher();
  ASSERT_TRUE(rig.Step(*fetcher, {0, 1}).ok());
  ASSERT_TRUE(rig.client().DetachSequence(rig.sequence().handle).ok());
  EXPECT_EQ(rig.Step(*fetcher, {0, 1}).code(), absl::StatusCode::kFailedPrecondition);
}

TEST(DoorbellLineTest, AbandonedPostsAreReleasedAndTheirSlotsUsedAgain) {
  DoorbellRig rig;
  std::mt19937 random(5);
  for (int round = 0; round < 100; ++round) {
    const auto posts = random() % 3;
    {
      const auto abandoned = rig.NewFetcher();
      for (uint32_t i = 0; i < posts; ++i) ASSERT_TRUE(rig.Post(*abandoned, 1, 0).ok());
    }
    const auto fetcher = rig.NewFetcher();
    const absl::Status done = rig.Step(*fetcher, RandomQueries(random, 5));
    ASSERT_TRUE(done.ok()) << "round " << round << ": " << done;
  }
}

TEST(DoorbellLineTest, AbandoningDoesNotWaitForTheStore) {
  DoorbellRig rig;
  rig.store().HoldAll();
  const int64_t before = rig.store().arrived();
  FetchedRows got;
  {
    const auto abandoned = rig.NewFetcher();
    ASSERT_TRUE(rig.Post(*abandoned, 1, 0).ok());
    rig.store().AwaitArrivals(before + 1);
    ASSERT_TRUE(rig.Take(*abandoned, 1, &got).ok());
  }
  EXPECT_EQ(rig.device().answered(), 1u);
  rig.device().Synchronize();
}

TEST(DoorbellLineTest, ASlotWhoseQueryMayBeUnreadIsNotGivenToAnother) {
  DoorbellRig rig;
  const auto one = rig.NewFetcher(), other = rig.NewFetcher(), third = rig.NewFetcher();
  for (RowFetcher* fetcher : {one.get(), other.get()}) {
    ASSERT_TRUE(rig.Post(*fetcher, 1, 0).ok());
    ASSERT_TRUE(rig.Post(*fetcher, 2, 1).ok());
  }
  EXPECT_EQ(rig.Post(*third, 1, 0).code(), absl::StatusCode::kResourceExhausted);
  ASSERT_TRUE(one->Take(1).ok());
  EXPECT_TRUE(rig.Post(*third, 1, 0).ok());
}

TEST(DoorbellLineTest, TheLinesEndReleasesWhatIsUnderWay) {
  DoorbellRig rig;
  rig.store().HoldAll();
  const auto account = std::make_shared<DoorbellLine::Account>();
  auto line = *DoorbellLine::Make(&rig.device(), rig.client().promised_selects(), 64, {});
  static const std::vector<float> kQuery(64, 1.0f);
  const SelectCall call = {.sequence = rig.sequence().handle,
                           .layer = 1,
                           .sealed_pages = DoorbellRig::kPages,
                           .q = {},
                           .params = DoorbellRig::kParams};
  const auto posted = line->Post(account, call, kQuery);
  ASSERT_TRUE(posted.ok()) << posted.status();
  line->Await(posted->number);
  line.reset();
  rig.device().Synchronize();
}

// Everything at once, for as many steps as it takes seconds: a step either fails or has the right
// rows, and always ends.
TEST(DoorbellLineTest, AStepUnderRandomFaultsFailsOrFetchesTheRightRows) {
  for (const uint32_t seed : {11u, 12u}) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    DoorbellRig rig({.seed = seed, .select_deadline_ms = 20});
    rig.store().random_delays = true;
    std::mt19937 random(seed);
    auto fetcher = rig.NewFetcher();
    for (int step = 0; step < 300; ++step) {
      switch (random() % 10) {
        case 0:
          rig.store().HoldAll();
          break;
        case 1:
          rig.store().short_answers = !rig.store().short_answers;
          break;
        case 2:
          rig.store().epoch_shift = random() % 2;
          break;
        case 3:
          ASSERT_TRUE(rig.Post(*fetcher, 1, 0).ok());
          fetcher = rig.NewFetcher();
          break;
        default:
          break;
      }
      // Ok only with the right rows; how many are depends on the machine.
      (void)rig.Step(*fetcher, RandomQueries(random, 1 + random() % 6));
      if (random() % 2 == 0) rig.store().LetAll();
      if (::testing::Test::HasFailure()) return;
    }
    rig.store().LetAll();
    rig.store().short_answers = false;
    rig.store().epoch_shift = 0;
    int tries = 0;
    while (!rig.Step(*fetcher, {0, 1, 2, 3}).ok()) ASSERT_LT(++tries, 1000) << "never recovers";
  }
}

}  // namespace
}  // namespace tailor
