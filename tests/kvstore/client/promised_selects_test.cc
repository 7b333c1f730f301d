// Promised selections over the real transport: what was announced is what comes, in whatever order
// plain, kept and broken promises follow each other.
#include "kvstore/client/promised_selects.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <string>
#include <thread>

#include "kvstore/client/shm_kv_client.h"
#include "kvstore/transport/shm_server.h"
#include "tests/kvstore/client/forwarding_control.h"
#include "tests/kvstore/client/written_sequence.h"
#include "tests/kvstore/transport/unreliable_store.h"

namespace tailor {
namespace {

constexpr int kQHeads = 4;
constexpr int64_t kPages = 2;

class PromisedSelectsTest : public ::testing::Test {
 protected:
  PromisedSelectsTest() {
    options_.socket_path = ::testing::TempDir() + "/promised_" + std::to_string(::getpid());
    server_ = *ShmServer::Start(&unreliable_, options_);
    client_ =
        *ShmKvClient::Connect({.socket_path = options_.socket_path, .select_deadline_ms = 200},
                              std::make_unique<ForwardingControl>(&served_));
    pool_ = *client_->OpenPool(SmallPool());
    sequence_ = *WriteSequence(*client_, pool_, "s", kPages * kPageTokens, 1);
    for (uint32_t i = 0; i < 4; ++i) queries_.push_back(KnownQuery(pool_.shape(), kQHeads, 5 + i));
  }
  ~PromisedSelectsTest() override { unreliable_.LetAll(); }

  SelectCall Call(std::span<const float> q = {}, int32_t top_k = 32) const {
    return {.sequence = sequence_.handle,
            .layer = 1,
            .sealed_pages = kPages,
            .q = q,
            .params = {.channels = 4, .top_k = top_k, .sink_tokens = 4}};
  }
  PromisedSelects& selects() { return *client_->promised_selects(); }
  // Posts, waits for the end, and copies the answer from where the promise said it would be.
  absl::StatusOr<OwnedRows> Keep(const PromisedSelect& promise, std::span<const float> q) {
    PostedSelect posted;
    absl::Status status = selects().Post(promise, q, &posted);
    while (absl::IsResourceExhausted(status)) status = selects().Post(promise, q, &posted);
    TS_RETURN_IF_ERROR(status);
    while (!selects().Ended(posted)) std::this_thread::yield();
    TS_RETURN_IF_ERROR(selects().Finish(promise, posted));
    OwnedRows owned{.count = promise.answer.count,
                    .tokens = {promise.answer.tokens.begin(), promise.answer.tokens.end()},
                    .rows = {}};
    for (const BFloat16 value : promise.answer.rows) owned.rows.push_back(value.bits);
    return owned;
  }

  std::shared_ptr<PageStore> store_ = *PageStore::Create({.arena_bytes = int64_t{16} << 20});
  ServedPageStore served_{store_};
  UnreliableStore unreliable_{&served_, 1};
  ShmServerOptions options_;
  std::unique_ptr<ShmServer> server_;
  std::unique_ptr<KvClient> client_;
  PoolView pool_;
  WrittenSequence sequence_;
  std::vector<std::vector<float>> queries_;
};

TEST_F(PromisedSelectsTest, AKeptPromiseHasThePlainSelectionsAnswerWhereItWasAnnounced) {
  std::vector<OwnedRows> plain;
  for (const auto& q : queries_) plain.push_back(*SelectNow(*client_, Call(q)));
  plain.push_back(*SelectNow(*client_, Call(queries_[0])));  // the store's turn is at another slot
  const auto memory = selects().AnswerMemory();
  for (int round = 0; round < 20; ++round) {
    const auto promise = selects().Promise(Call());
    ASSERT_TRUE(promise.ok()) << promise.status();
    const auto bytes = std::as_bytes(promise->answer.rows);
    EXPECT_TRUE(std::any_of(memory.begin(), memory.end(), [&](std::span<std::byte> range) {
      return bytes.data() >= range.data() &&
             bytes.data() + bytes.size() <= range.data() + range.size();
    }));
    const auto kept = Keep(*promise, queries_[round % 4]);
    ASSERT_TRUE(kept.ok()) << kept.status();
    EXPECT_EQ(*kept, plain[round % 4]) << round;
  }
}

TEST_F(PromisedSelectsTest, PromisesThatAreNeverPostedMoveNoLaterAnswer) {
  const OwnedRows want = *SelectNow(*client_, Call(queries_[1]));
  for (int broken = 0; broken < 10; ++broken) {
    for (int i = 0; i < broken; ++i) ASSERT_TRUE(selects().Promise(Call()).ok());
    const auto kept = Keep(*selects().Promise(Call()), queries_[1]);
    ASSERT_TRUE(kept.ok()) << kept.status();
    EXPECT_EQ(*kept, want) << broken;
  }
  EXPECT_EQ(server_->stats().malformed_requests, 0);
  EXPECT_EQ(server_->stats().broken_connections, 0);
  EXPECT_GT(server_->stats().late_requests, 0) << "what brings the turn round is dropped unserved";
}

TEST_F(PromisedSelectsTest, FewerCandidatesThanRowsAskedForAreAnnouncedAsSuch) {
  const auto promise = selects().Promise(Call({}, kMaxTopK));
  ASSERT_TRUE(promise.ok()) << promise.status();
  EXPECT_EQ(promise->answer.count, kPages * kPageTokens - 4);
  EXPECT_TRUE(Keep(*promise, queries_[0]).ok());
}

TEST_F(PromisedSelectsTest, PlainSelectionsEndWithTheFirstPromise) {
  ASSERT_TRUE(selects().Promise(Call()).ok());
  EXPECT_EQ(client_->PostSelect(Call(queries_[0])).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(PromisedSelectsTest, WhatTheWireCannotCarryIsNotPromised) {
  SelectCall call = Call();
  call.layer = 3;
  EXPECT_EQ(selects().Promise(call).status().code(), absl::StatusCode::kInvalidArgument);
  call = Call();
  call.params.top_k = kMaxTopK + 1;
  EXPECT_EQ(selects().Promise(call).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(PromisedSelectsTest, AnAnswerThatDoesNotComeEndsAtItsDeadlineAndASlotStaysTakenUntilItDoes) {
  unreliable_.HoldAll();
  EXPECT_EQ(Keep(*selects().Promise(Call()), queries_[0]).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(selects().Promise(Call()).ok());
  const auto same_slot = *selects().Promise(Call());
  EXPECT_EQ(Keep(same_slot, queries_[1]).status().code(), absl::StatusCode::kDeadlineExceeded)
      << "tried in vain as long as the first was not answered";
  unreliable_.LetAll();
  EXPECT_TRUE(Keep(same_slot, queries_[1]).ok());
}

}  // namespace
}  // namespace tailor
