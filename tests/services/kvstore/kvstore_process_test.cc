// The store as it runs: its own process, control over gRPC, data over shared memory.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <fstream>
#include <memory>
#include <string>

#include "kvstore/client/shm_kv_client.h"
#include "services/kv_control/grpc_kv_control.h"
#include "tests/kvstore/client/written_sequence.h"
#include "tests/services/kvstore/store_process.h"

namespace tailor {
namespace {

constexpr int kQHeads = 4;

class KvStoreProcess : public ::testing::Test {
 protected:
  std::vector<std::string> Arguments(const std::string& arena = "16MiB") const {
    return {"--arena-bytes",   arena,         "--socket", folder_.data(), "--listen",
            folder_.control(), "--log-level", "warn"};
  }
  void Start() {
    store_ = std::make_unique<StoreProcess>(Arguments());
    ASSERT_TRUE(store_->IsReady());
  }
  absl::StatusOr<std::unique_ptr<KvClient>> Connect(uint64_t expected_epoch = 0) const {
    ShmKvClientOptions options;
    options.socket_path = folder_.data();
    options.expected_epoch = expected_epoch;
    options.select_deadline_ms = 1000;
    return ShmKvClient::Connect(
        options, MakeGrpcKvControl({.address = folder_.control(), .call_timeout_ms = 2000}));
  }
  static SelectCall Call(const WrittenSequence& sequence, std::span<const float> q) {
    return {.sequence = sequence.handle,
            .layer = 1,
            .sealed_pages = sequence.sealed_pages,
            .q = q,
            .params = {.channels = 4, .top_k = 32, .sink_tokens = 4}};
  }

  const SocketFolder folder_;
  std::unique_ptr<StoreProcess> store_;
  const std::vector<float> q_ = KnownQuery(SmallPool().shape, kQHeads, 5);
};

TEST_F(KvStoreProcess, AWorkerWritesSealsSelectsForksAndFindsItsSequenceAgain) {
  Start();
  auto client = Connect();
  ASSERT_TRUE(client.ok()) << client.status();
  const auto pool = (*client)->OpenPool(SmallPool());
  ASSERT_TRUE(pool.ok()) << pool.status();
  const auto sequence = WriteSequence(**client, *pool, "a", 3 * kPageTokens + 5, 1);
  ASSERT_TRUE(sequence.ok()) << sequence.status();
  const auto rows = SelectNow(**client, Call(*sequence, q_));
  ASSERT_TRUE(rows.ok()) << rows.status();
  EXPECT_EQ(rows->count, 32);
  EXPECT_EQ(rows->rows[0], ToBFloat16(KnownValue(1, 1, 0, rows->tokens[0], 0, 0)).bits);
  EXPECT_TRUE((*client)->VerifyPages(sequence->handle, 0, 3).ok());
  const auto child = (*client)->ForkSequence(sequence->handle, {.tenant = "t", .name = "b"});
  ASSERT_TRUE(child.ok()) << child.status();
  EXPECT_EQ((*client)->Stats()->pages_shared, 3);
  EXPECT_TRUE((*client)->CloseSequence(child->handle).ok());
  client->reset();  // the lease ends; what is sealed stays
  const auto again = Connect();
  ASSERT_TRUE((*again)->OpenPool(SmallPool()).ok());
  absl::StatusOr<SequenceGrant> grant;
  ASSERT_TRUE(Eventually([&] {
    grant = (*again)->OpenSequence({.tenant = "t", .name = "a"}, sequence->tokens);
    return grant.ok();
  })) << grant.status();
  EXPECT_EQ(grant->sealed_pages, 3);
}

TEST_F(KvStoreProcess, AKilledWorkerFreesItsUncommittedPagesAndLeavesItsSequences) {
  Start();
  const pid_t worker = ::fork();
  if (worker == 0) {  // a program of its own: gRPC does not survive a fork
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::execl(TAILOR_HOLDING_WORKER, "holding_worker", folder_.data().c_str(),
            folder_.control().c_str(), nullptr);
    ::_exit(127);
  }
  const auto client = Connect();
  ASSERT_TRUE(client.ok()) << client.status();
  EXPECT_TRUE(Eventually([&] { return (*client)->Stats()->pages_open == 5; }));
  EXPECT_EQ((*client)->Stats()->sequences_attached, 1);
  ::kill(worker, SIGKILL);
  EXPECT_TRUE(Eventually([&] { return (*client)->Stats()->pages_open == 1; }));
  int status = 0;
  ::waitpid(worker, &status, 0);
  EXPECT_TRUE(WIFSIGNALED(status));
  const StoreStats stats = *(*client)->Stats();
  EXPECT_EQ(stats.sequences_attached, 0);
  EXPECT_EQ(stats.sequences_detached, 1);
  EXPECT_EQ(stats.pages_sealed, 2);
  EXPECT_EQ(stats.pages_free, stats.pages_total - 3);
}

TEST_F(KvStoreProcess, AStoppedStoreRunsSelectionsIntoTheirDeadline) {
  Start();
  const auto client = Connect();
  const auto pool = (*client)->OpenPool(SmallPool());
  const auto sequence = WriteSequence(**client, *pool, "a", 2 * kPageTokens, 1);
  ASSERT_TRUE(sequence.ok()) << sequence.status();
  store_->Stop();
  const int64_t start_ns = MonotonicNowNs();
  EXPECT_EQ(SelectNow(**client, Call(*sequence, q_)).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  EXPECT_GE(MonotonicNowNs() - start_ns, int64_t{1'000'000'000});
  store_->Signal(SIGCONT);
  EXPECT_TRUE(Eventually([&] { return SelectNow(**client, Call(*sequence, q_)).ok(); }))
      << "a store that goes on serves on";
}

TEST_F(KvStoreProcess, AKilledStoreIsUnavailableBeforeTheDeadline) {
  Start();
  const auto client = Connect();
  const auto pool = (*client)->OpenPool(SmallPool());
  const auto sequence = WriteSequence(**client, *pool, "a", 2 * kPageTokens, 1);
  ASSERT_TRUE(sequence.ok()) << sequence.status();
  store_->Stop();  // so that the selection is surely pending
  const auto ticket = (*client)->PostSelect(Call(*sequence, q_));
  ASSERT_TRUE(ticket.ok()) << ticket.status();
  store_->Signal(SIGKILL);
  const int64_t start_ns = MonotonicNowNs();
  EXPECT_EQ((*client)->FinishSelect(*ticket).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_LT(MonotonicNowNs() - start_ns, int64_t{1'000'000'000});
  EXPECT_EQ((*client)->PostSelect(Call(*sequence, q_)).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_FALSE((*client)->Stats().ok());
}

TEST_F(KvStoreProcess, ARestartedStoreRefusesTheOldEpochEverywhere) {
  Start();
  const auto old_client = Connect();
  const auto pool = (*old_client)->OpenPool(SmallPool());
  const auto sequence = WriteSequence(**old_client, *pool, "a", 2 * kPageTokens, 1);
  ASSERT_TRUE(sequence.ok()) << sequence.status();
  const uint64_t old_epoch = (*old_client)->Stats()->epoch;
  store_->Signal(SIGKILL);
  store_->Wait();
  Start();  // over the stale socket files
  // The old client's control calls may reach the new store; its lease there means nothing.
  EXPECT_TRUE(Eventually([&] {
    return (*old_client)->ReservePages(sequence->handle, 1).status().code() ==
           absl::StatusCode::kFailedPrecondition;
  }));
  EXPECT_EQ((*old_client)->PostSelect(Call(*sequence, q_)).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(Connect(old_epoch).status().code(), absl::StatusCode::kFailedPrecondition);
  const auto new_client = Connect();
  ASSERT_TRUE(new_client.ok()) << new_client.status();
  EXPECT_NE((*new_client)->Stats()->epoch, old_epoch);
  ASSERT_TRUE((*new_client)->OpenPool(SmallPool()).ok());
  EXPECT_FALSE(SelectNow(**new_client, Call(*sequence, q_)).ok());
}

TEST_F(KvStoreProcess, SigtermEndsItCleanly) {
  Start();
  const auto client = Connect();
  ASSERT_TRUE(client.ok());
  store_->Signal(SIGTERM);
  EXPECT_EQ(store_->Wait(), 0);
  EXPECT_NE(::access(folder_.data().c_str(), F_OK), 0) << "the socket file was left";
}

TEST_F(KvStoreProcess, AnArenaLargerThanTheMachineExitsWithFour) {
  StoreProcess store(Arguments("8192GiB"));
  EXPECT_FALSE(store.IsReady());
  EXPECT_EQ(store.Wait(), 4);
}

TEST_F(KvStoreProcess, AnAddressInUseExitsWithFiveAndLeavesTheFirstAlone) {
  Start();
  StoreProcess second(Arguments());
  EXPECT_FALSE(second.IsReady());
  EXPECT_EQ(second.Wait(), 5);
  SocketFolder other;
  StoreProcess third(
      {"--arena-bytes", "16MiB", "--socket", other.data(), "--listen", folder_.control()});
  EXPECT_EQ(third.Wait(), 5);
  EXPECT_TRUE(Connect().ok());
  EXPECT_TRUE((*Connect())->Stats().ok());
}

TEST_F(KvStoreProcess, NonsenseOnTheCommandLineExitsWithTwo) {
  StoreProcess unknown({"--no-such-flag"});
  EXPECT_EQ(unknown.Wait(), 2);
  StoreProcess range({"--arena-bytes", "16MiB", "--selection-threads", "0"});
  EXPECT_EQ(range.Wait(), 2);
}

}  // namespace
}  // namespace tailor
