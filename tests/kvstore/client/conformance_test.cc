// One suite for every way to a store: the same calls must give the same answers, whatever carries
// them.
#include <gtest/gtest.h>
#include <unistd.h>

#include <functional>
#include <memory>
#include <set>
#include <string>

#include "kvstore/client/kv_client.h"
#include "kvstore/client/local_kv_client.h"
#include "kvstore/client/shm_kv_client.h"
#include "kvstore/page_store.h"
#include "kvstore/transport/served_page_store.h"
#include "kvstore/transport/shm_server.h"
#include "tests/kvstore/client/forwarding_control.h"
#include "tests/kvstore/client/written_sequence.h"

namespace tailor {
namespace {

constexpr int64_t kArenaBytes = int64_t{16} << 20;
constexpr int kQHeads = 4;

enum class Way { kLocal, kShm };

std::shared_ptr<PageStore> NewStore() {
  auto store = PageStore::Create({.arena_bytes = kArenaBytes});
  TS_CHECK(store.ok());
  return std::move(*store);
}

// A store, and clients that reach it in one of the ways.
class Rig {
 public:
  explicit Rig(Way way) : way_(way) {
    if (way == Way::kLocal) return;
    options_.socket_path = ::testing::TempDir() + "/conformance_" + std::to_string(::getpid());
    served_ = std::make_unique<ServedPageStore>(store_);
    auto server = ShmServer::Start(served_.get(), options_);
    TS_CHECK(server.ok());
    server_ = std::move(*server);
  }

  std::unique_ptr<KvClient> NewClient() {
    if (way_ == Way::kLocal) return std::make_unique<LocalKvClient>(store_);
    ShmKvClientOptions options;
    options.socket_path = options_.socket_path;
    options.select_deadline_ms = 20'000;
    auto client = ShmKvClient::Connect(options, std::make_unique<ForwardingControl>(served_.get()));
    TS_CHECK(client.ok());
    return std::move(*client);
  }

 private:
  const Way way_;
  std::shared_ptr<PageStore> store_ = NewStore();
  std::unique_ptr<ServedPageStore> served_;
  ShmServerOptions options_;
  std::unique_ptr<ShmServer> server_;
};

bool Eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < 20'000; ++i) {
    if (condition()) return true;
    ::usleep(1000);
  }
  return false;
}

class KvClientConformance : public ::testing::TestWithParam<Way> {
 protected:
  SelectCall Call(const WrittenSequence& sequence, int layer, std::span<const float> q) {
    return {.sequence = sequence.handle,
            .layer = layer,
            .sealed_pages = sequence.sealed_pages,
            .q = q,
            .params = {.channels = 4, .top_k = 32, .sink_tokens = 4}};
  }
  StoreStats Stats() { return client_->Stats().value(); }

  Rig rig_{GetParam()};
  std::unique_ptr<KvClient> client_ = rig_.NewClient();
  PoolView pool_ = client_->OpenPool(SmallPool()).value();
};

TEST_P(KvClientConformance, SelectedRowsAreTheRowsThatWereWritten) {
  const auto sequence = WriteSequence(*client_, pool_, "a", 3 * kPageTokens + 40, 1);
  ASSERT_TRUE(sequence.ok()) << sequence.status();
  EXPECT_EQ(sequence->sealed_pages, 3);
  const std::vector<float> q = KnownQuery(pool_.shape(), kQHeads, 5);
  for (const int layer : {1, 2}) {
    const auto got = SelectNow(*client_, Call(*sequence, layer, q));
    ASSERT_TRUE(got.ok()) << got.status();
    ASSERT_EQ(got->count, 32);
    ASSERT_EQ(got->tokens.size(), 2u * 32);
    for (int i = 0; i < 2 * 32; ++i) {
      const int head = i / 32;
      EXPECT_GE(got->tokens[i], 4) << "a sink token is no candidate";
      EXPECT_LT(got->tokens[i], 3 * kPageTokens);
      for (int c = 0; c < 2 * 16; ++c) {
        EXPECT_EQ(got->rows[i * 32 + c],
                  ToBFloat16(KnownValue(1, layer, head, got->tokens[i], c / 16, c % 16)).bits);
      }
    }
  }
}

TEST_P(KvClientConformance, EveryWayGivesTheSameAnswerBitForBit) {
  Rig local_rig(Way::kLocal);
  const auto local = local_rig.NewClient();
  const PoolView local_pool = local->OpenPool(SmallPool()).value();
  const auto mine = WriteSequence(*client_, pool_, "a", 5 * kPageTokens, 3);
  const auto theirs = WriteSequence(*local, local_pool, "a", 5 * kPageTokens, 3);
  ASSERT_TRUE(mine.ok() && theirs.ok());
  for (uint32_t round = 0; round < 50; ++round) {
    const std::vector<float> q = KnownQuery(pool_.shape(), kQHeads, round);
    const auto got = SelectNow(*client_, Call(*mine, 1 + round % 2, q));
    const auto want = SelectNow(*local, Call(*theirs, 1 + round % 2, q));
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(*got, *want) << "round " << round;
  }
}

TEST_P(KvClientConformance, FourSelectionsMayBePendingAndAFifthIsRefused) {
  const auto sequence = WriteSequence(*client_, pool_, "a", 2 * kPageTokens, 1);
  ASSERT_TRUE(sequence.ok()) << sequence.status();
  const std::vector<float> q = KnownQuery(pool_.shape(), kQHeads, 5);
  std::vector<uint64_t> tickets;
  for (int i = 0; i < kMaxPendingSelects; ++i) {
    const auto ticket = client_->PostSelect(Call(*sequence, 1 + i % 2, q));
    ASSERT_TRUE(ticket.ok()) << ticket.status();
    tickets.push_back(*ticket);
  }
  EXPECT_FALSE(client_->PostSelect(Call(*sequence, 1, q)).ok());
  for (const uint64_t ticket : tickets) EXPECT_TRUE(client_->FinishSelect(ticket).ok());
  EXPECT_TRUE(SelectNow(*client_, Call(*sequence, 1, q)).ok());
}

TEST_P(KvClientConformance, AForkSharesItsParentsPagesAndAnswersLikeIt) {
  auto parent = WriteSequence(*client_, pool_, "parent", 2 * kPageTokens + 10, 1);
  ASSERT_TRUE(parent.ok()) << parent.status();
  const auto child = client_->ForkSequence(parent->handle, {.tenant = "t", .name = "child"});
  ASSERT_TRUE(child.ok()) << child.status();
  EXPECT_EQ(child->sealed_pages, 2);
  EXPECT_EQ(child->committed_tokens, 2 * kPageTokens + 10);
  ASSERT_EQ(child->pages.size(), 3u);
  EXPECT_EQ(child->pages[0], parent->pages[0]);
  EXPECT_EQ(child->pages[1], parent->pages[1]);
  EXPECT_NE(child->pages[2], parent->pages[2]) << "an open page is copied, not shared";
  EXPECT_EQ(Stats().pages_shared, 2);
  const std::vector<float> q = KnownQuery(pool_.shape(), kQHeads, 5);
  const WrittenSequence forked{
      .handle = child->handle, .pages = child->pages, .tokens = parent->tokens, .sealed_pages = 2};
  EXPECT_EQ(SelectNow(*client_, Call(forked, 1, q)).value(),
            SelectNow(*client_, Call(*parent, 1, q)).value());
  EXPECT_TRUE(client_->CloseSequence(parent->handle).ok());
  EXPECT_TRUE(SelectNow(*client_, Call(forked, 1, q)).ok())
      << "the parent's end is not the child's";
}

TEST_P(KvClientConformance, AStaleHandleIsRefusedEverywhere) {
  const auto sequence = WriteSequence(*client_, pool_, "a", 2 * kPageTokens, 1);
  ASSERT_TRUE(sequence.ok()) << sequence.status();
  WrittenSequence stale = *sequence;
  stale.handle.generation += 1;
  const std::vector<float> q = KnownQuery(pool_.shape(), kQHeads, 5);
  const auto refused = absl::StatusCode::kFailedPrecondition;
  EXPECT_EQ(SelectNow(*client_, Call(stale, 1, q)).status().code(), refused);
  EXPECT_EQ(client_->Commit(stale.handle, 1).code(), refused);
  EXPECT_EQ(client_->ReservePages(stale.handle, 1).status().code(), refused);
  EXPECT_EQ(client_->SealPages(stale.handle, 1, PageOrigin::kDecoded).code(), refused);
  EXPECT_EQ(client_->VerifyPages(stale.handle, 0, 1).code(), refused);
  EXPECT_EQ(client_->DetachSequence(stale.handle).code(), refused);
  EXPECT_EQ(client_->CloseSequence(stale.handle).code(), refused);
  EXPECT_TRUE(client_->CloseSequence(sequence->handle).ok());
  EXPECT_EQ(SelectNow(*client_, Call(*sequence, 1, q)).status().code(), refused) << "closed";
}

TEST_P(KvClientConformance, ADamagedRowIsNeverServed) {
  const auto sequence = WriteSequence(*client_, pool_, "a", 2 * kPageTokens, 1);
  ASSERT_TRUE(sequence.ok()) << sequence.status();
  for (int page = 0; page < 2; ++page) {
    for (int t = 0; t < kPageTokens; ++t) {
      pool_.Rows(1, 0, sequence->pages[page])[t * 2 * 16].bits ^= 1;  // as broken memory would
    }
  }
  const std::vector<float> q = KnownQuery(pool_.shape(), kQHeads, 5);
  EXPECT_EQ(SelectNow(*client_, Call(*sequence, 1, q)).status().code(),
            absl::StatusCode::kDataLoss);
  EXPECT_TRUE(SelectNow(*client_, Call(*sequence, 2, q)).ok()) << "the other layer is whole";
  EXPECT_EQ(client_->VerifyPages(sequence->handle, 0, 2).code(), absl::StatusCode::kDataLoss);
}

// The sums are checked in tests/kvstore/select; here, that they come through, and what is refused.
TEST_P(KvClientConformance, ExactAttentionAnswersEachQueryAndRefusesWhatIsNotThere) {
  const auto sequence = WriteSequence(*client_, pool_, "a", 2 * kPageTokens, 1);
  ASSERT_TRUE(sequence.ok()) << sequence.status();
  const std::vector<float> q = KnownQuery(pool_.shape(), kQHeads, 5);
  const std::vector<float> head(q.begin(), q.begin() + q.size() / 2);
  const ExactCall call = {.sequence = sequence->handle,
                          .sealed_pages = 2,
                          .sink_tokens = 8,
                          .queries = {{0, 1, head}, {2, 0, head}}};
  const auto answers = client_->AttendExactly(call);
  ASSERT_TRUE(answers.ok()) << answers.status();
  ASSERT_EQ(answers->size(), 2u);
  ExactScratch scratch;
  for (size_t i = 0; i < 2; ++i) {
    ExactOutput want;
    ASSERT_TRUE(AttendExactly({.pool = &pool_,
                               .layer = call.queries[i].layer,
                               .kv_head = call.queries[i].kv_head,
                               .sealed_pages = std::span(sequence->pages).first(2),
                               .sink_tokens = 8,
                               .q = head},
                              scratch, &want)
                    .ok());
    EXPECT_EQ((*answers)[i].lse, want.lse);
    EXPECT_EQ((*answers)[i].out, want.out);
  }
  const auto refused = [&](auto spoil) {
    ExactCall bad = call;
    spoil(bad);
    return client_->AttendExactly(bad).status().code();
  };
  EXPECT_EQ(refused([](ExactCall& c) { c.sequence.generation += 1; }),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(refused([](ExactCall& c) { c.sealed_pages = 3; }),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(refused([](ExactCall& c) { c.sink_tokens = kPageTokens + 1; }),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(refused([](ExactCall& c) { c.queries[0].layer = 3; }),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(refused([](ExactCall& c) { c.queries[1].kv_head = 2; }),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(refused([](ExactCall& c) { c.queries[1].q.pop_back(); }),
            absl::StatusCode::kInvalidArgument);
  pool_.Rows(2, 0, sequence->pages[1])[5].bits ^= 1;
  EXPECT_EQ(client_->AttendExactly(call).status().code(), absl::StatusCode::kDataLoss);
}

TEST_P(KvClientConformance, ADetachedSequenceIsFoundAgainByAnotherClient) {
  const auto sequence = WriteSequence(*client_, pool_, "a", 2 * kPageTokens + 7, 1);
  ASSERT_TRUE(sequence.ok()) << sequence.status();
  ASSERT_TRUE(client_->DetachSequence(sequence->handle).ok());
  const auto other = rig_.NewClient();
  ASSERT_TRUE(other->OpenPool(SmallPool()).ok());
  const auto again = other->OpenSequence({.tenant = "t", .name = "a"}, sequence->tokens);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->sealed_pages, 2);
  EXPECT_NE(again->handle, sequence->handle) << "a new life";
  const std::vector<float> q = KnownQuery(pool_.shape(), kQHeads, 5);
  EXPECT_EQ(SelectNow(*client_, Call(*sequence, 1, q)).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_P(KvClientConformance, ASequenceThatAnotherClientHoldsIsNotHandedOut) {
  const auto sequence = WriteSequence(*client_, pool_, "a", kPageTokens, 1);
  ASSERT_TRUE(sequence.ok()) << sequence.status();
  const auto other = rig_.NewClient();
  ASSERT_TRUE(other->OpenPool(SmallPool()).ok());
  EXPECT_EQ(other->OpenSequence({.tenant = "t", .name = "a"}, sequence->tokens).status().code(),
            absl::StatusCode::kAlreadyExists);
  WrittenSequence borrowed = *sequence;
  const std::vector<float> q = KnownQuery(pool_.shape(), kQHeads, 5);
  EXPECT_FALSE(SelectNow(*other, Call(borrowed, 1, q)).ok()) << "a handle is no right";
}

TEST_P(KvClientConformance, AClientsEndDetachesItsSequencesAndFreesPagesWithoutCommittedRows) {
  const StoreStats before = Stats();
  {
    const auto other = rig_.NewClient();
    const PoolView pool = other->OpenPool(SmallPool()).value();
    auto sequence = WriteSequence(*other, pool, "b", 2 * kPageTokens + 20, 2);
    ASSERT_TRUE(sequence.ok()) << sequence.status();
    ASSERT_TRUE(other->ReservePages(sequence->handle, 3).ok());
    EXPECT_EQ(Stats().pages_open, 4);
  }
  ASSERT_TRUE(Eventually([&] { return Stats().pages_open == 1; })) << "the one with 20 tokens";
  const StoreStats after = Stats();
  EXPECT_EQ(after.sequences_detached, before.sequences_detached + 1);
  EXPECT_EQ(after.pages_sealed, 2);
  EXPECT_EQ(after.pages_free, before.pages_free - 3);
  ASSERT_TRUE(client_->RemoveSequence({.tenant = "t", .name = "b"}).ok());
  EXPECT_EQ(Stats().pages_free, before.pages_free);
}

TEST_P(KvClientConformance, MorePagesThanThereAreIsRefusedAndNothingIsTaken) {
  const auto sequence = WriteSequence(*client_, pool_, "a", kPageTokens, 1);
  ASSERT_TRUE(sequence.ok()) << sequence.status();
  const StoreStats before = Stats();
  const auto refused = client_->ReservePages(sequence->handle, before.pages_total + 1);
  EXPECT_FALSE(refused.ok());
  EXPECT_EQ(Stats().pages_free, before.pages_free);
}

TEST_P(KvClientConformance, EveryParameterOfASelectionDecidesWhatTheStoreChooses) {
  const auto sequence = WriteSequence(*client_, pool_, "a", 4 * kPageTokens, 1);
  ASSERT_TRUE(sequence.ok()) << sequence.status();
  const std::vector<float> q = KnownQuery(pool_.shape(), kQHeads, 5);
  const auto sealed = std::span(sequence->pages).first(sequence->sealed_pages);
  RunningKmax kmax(pool_.shape());
  kmax.Extend(pool_, sealed);
  std::set<std::vector<int32_t>> answers;
  const std::vector<SelectParams> all = {
      {4, 32, 4, GroupRule::kMean, 0},   {5, 32, 4, GroupRule::kMean, 0},
      {4, 32, 4, GroupRule::kHeads, 0},  {4, 32, 4, GroupRule::kHeads, 300},
      {4, 32, 128, GroupRule::kMean, 0}, {4, 31, 4, GroupRule::kMean, 0}};
  for (const SelectParams& params : all) {
    SelectCall call = Call(*sequence, 1, q);
    call.params = params;
    SelectScratch scratch;
    Selection want;
    Select({.pool = &pool_,
            .layer = 1,
            .sealed_pages = sealed,
            .kmax = &kmax,
            .q = q,
            .params = params},
           scratch, &want);
    const auto got = SelectNow(*client_, call);
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_TRUE(
        std::equal(got->tokens.begin(), got->tokens.end(), want.tokens.begin(), want.tokens.end()));
    answers.insert(want.tokens);
  }
  EXPECT_EQ(answers.size(), all.size()) << "each differs from the others";
}

TEST_P(KvClientConformance, SelectionsOutOfRangeAreRefusedAndHarmNothing) {
  const auto sequence = WriteSequence(*client_, pool_, "a", 2 * kPageTokens, 1);
  ASSERT_TRUE(sequence.ok()) << sequence.status();
  const std::vector<float> q = KnownQuery(pool_.shape(), kQHeads, 5);
  const std::vector<std::function<void(SelectCall&)>> spoilers = {
      [](SelectCall& call) { call.layer = 0; },  // dense: no index
      [](SelectCall& call) { call.layer = 3; },
      [](SelectCall& call) { call.layer = -1; },
      [](SelectCall& call) { call.sealed_pages = 3; },
      [](SelectCall& call) { call.sealed_pages = -1; },
      [](SelectCall& call) { call.params.top_k = 0; },
      [](SelectCall& call) { call.params.top_k = kMaxTopK + 1; },
      [](SelectCall& call) { call.params.channels = 17; },
      [](SelectCall& call) { call.params.sink_tokens = -1; },
      [](SelectCall& call) { call.params.sink_tokens = 256; },
      [](SelectCall& call) { call.params.rescore_extra = -1; },
      [](SelectCall& call) { call.params.rescore_extra = kMaxTopK + 1; },
      [](SelectCall& call) { call.params.group = static_cast<GroupRule>(2); },
      [](SelectCall& call) { call.q = call.q.first(17); },
      [](SelectCall& call) { call.q = {}; },
  };
  for (size_t i = 0; i < spoilers.size(); ++i) {
    SelectCall call = Call(*sequence, 1, q);
    spoilers[i](call);
    EXPECT_FALSE(SelectNow(*client_, call).ok()) << "spoiler " << i;
  }
  EXPECT_TRUE(SelectNow(*client_, Call(*sequence, 1, q)).ok());
}

INSTANTIATE_TEST_SUITE_P(EveryWay, KvClientConformance, ::testing::Values(Way::kLocal, Way::kShm),
                         [](const auto& info) {
                           return info.param == Way::kLocal ? "Local" : "Shm";
                         });

}  // namespace
}  // namespace tailor
