#include "kvstore/transport/shm_server.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <string>
#include <vector>

#include "common/shm/fd_passing.h"
#include "common/shm/unix_socket.h"
#include "kvstore/client/store_link.h"
#include "tests/kvstore/transport/fake_store.h"

namespace tailor {
namespace {

int64_t InMs(int64_t ms) { return MonotonicNowNs() + ms * 1'000'000; }

bool Eventually(const std::function<bool()>& condition) {
  const int64_t deadline_ns = InMs(20'000);
  while (!condition()) {
    if (MonotonicNowNs() > deadline_ns) return false;
    ::usleep(1000);
  }
  return true;
}

class ShmServerTest : public ::testing::Test {
 protected:
  ShmServerTest() {
    options_.socket_path = ::testing::TempDir() + "/shm_server_" + std::to_string(::getpid());
    options_.selection_threads = 2;
    options_.max_query_floats = 64;
    options_.payload_bytes = 1 << 16;
  }
  void Start() {
    auto server = ShmServer::Start(&store_, options_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = std::move(*server);
  }
  std::unique_ptr<StoreLink> Connect(StoreLinkOptions options = {}) {
    options.socket_path = options_.socket_path;
    auto link = StoreLink::Connect(options);
    EXPECT_TRUE(link.ok()) << link.status();
    return link.ok() ? std::move(*link) : nullptr;
  }
  static wire::SelectRequest Request(uint32_t layer, int64_t timeout_ms = 20'000) {
    wire::SelectRequest request{};
    request.sequence = 1;
    request.generation = 1;
    request.deadline_ns = InMs(timeout_ms);
    request.layer = layer;
    request.top_k = 4;
    request.channels = 8;
    return request;
  }

  FakeStore store_;
  ShmServerOptions options_;
  std::unique_ptr<ShmServer> server_;
  const std::vector<float> q_ = std::vector<float>(32, 3.0f);
};

TEST_F(ShmServerTest, AnswersCarryTheRowsOfTheirOwnRequest) {
  Start();
  const auto link = Connect();
  for (uint32_t round = 0; round < 2000; ++round) {
    const std::vector<float> q(32, static_cast<float>(round % 100));
    const auto ticket = link->Post(Request(round % 7), q);
    ASSERT_TRUE(ticket.ok()) << ticket.status();
    const auto answer = link->Wait(*ticket, InMs(20'000));
    ASSERT_TRUE(answer.ok()) << answer.status();
    ASSERT_EQ(answer->response.count, 4u);
    ASSERT_EQ(answer->tokens.size(), 8u);
    ASSERT_EQ(answer->rows.size(), 8u * 2 * 16);
    EXPECT_EQ(ToFloat(answer->rows[0]), static_cast<float>(round % 100));
    EXPECT_EQ(ToFloat(answer->rows[16]), static_cast<float>(round % 7));
  }
  EXPECT_EQ(server_->stats().requests, 2000);
  EXPECT_EQ(server_->stats().malformed_requests, 0);
}

TEST_F(ShmServerTest, FourSelectionsMayBePendingAndEachGetsItsOwnAnswer) {
  Start();
  const auto link = Connect();
  for (int round = 0; round < 200; ++round) {
    std::vector<uint64_t> tickets;
    for (uint32_t layer = 0; layer < 4; ++layer) {
      tickets.push_back(link->Post(Request(layer), q_).value());
    }
    for (uint32_t layer = 0; layer < 4; ++layer) {
      const auto answer = link->Wait(tickets[layer], InMs(20'000));
      ASSERT_TRUE(answer.ok()) << answer.status();
      EXPECT_EQ(ToFloat(answer->rows[16]), static_cast<float>(layer));
    }
  }
}

TEST_F(ShmServerTest, ManyWorkersAreServedAtOnce) {
  Start();
  std::vector<std::thread> workers;
  std::atomic<int> good{0};
  for (int worker = 0; worker < 4; ++worker) {
    workers.emplace_back([&, worker] {
      const auto link = Connect();
      for (int round = 0; round < 300; ++round) {
        const auto ticket = link->Post(Request(worker), q_);
        const auto answer = link->Wait(ticket.value(), InMs(20'000));
        good += answer.ok() && ToFloat(answer->rows[16]) == static_cast<float>(worker);
      }
    });
  }
  for (std::thread& worker : workers) worker.join();
  EXPECT_EQ(good.load(), 4 * 300);
}

TEST_F(ShmServerTest, TheStoresRefusalReachesTheWorkerInItsOwnWords) {
  Start();
  const auto link = Connect();
  const auto lost = link->Wait(link->Post(Request(13), q_).value(), InMs(20'000));
  EXPECT_EQ(lost.status(), absl::DataLossError("row check of layer 13 head 0 token 5"));
  wire::SelectRequest stale = Request(1);
  stale.generation = 0;
  const auto refused = link->Wait(link->Post(stale, q_).value(), InMs(20'000));
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(ShmServerTest, ARequestPastItsDeadlineIsAnsweredWithoutWork) {
  Start();
  const auto link = Connect();
  const auto late = link->Wait(link->Post(Request(1, -1), q_).value(), InMs(20'000));
  EXPECT_EQ(late.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(store_.selects.load(), 0);
  EXPECT_EQ(server_->stats().late_requests, 1);
}

TEST_F(ShmServerTest, AWaitEndsAtItsDeadlineAndTheLateAnswerHarmsNobody) {
  options_.selection_threads = 1;
  Start();
  const auto link = Connect();
  store_.delay_ms = 100;
  const uint64_t slow = link->Post(Request(1), q_).value();
  EXPECT_EQ(link->Wait(slow, InMs(10)).status().code(), absl::StatusCode::kDeadlineExceeded);
  store_.delay_ms = 0;
  for (uint32_t round = 0; round < 20; ++round) {
    const auto ticket = link->Post(Request(round), q_);
    ASSERT_TRUE(ticket.ok()) << ticket.status();
    const auto answer = link->Wait(*ticket, InMs(20'000));
    if (round == 13) continue;
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(ToFloat(answer->rows[16]), static_cast<float>(round));
  }
}

TEST_F(ShmServerTest, ASlotWhoseAnswerIsOutstandingIsNotPostedToAgain) {
  options_.selection_threads = 1;
  Start();
  const auto link = Connect();
  store_.delay_ms = 300;
  for (int i = 0; i < 4; ++i) {
    const uint64_t ticket = link->Post(Request(1), q_).value();
    EXPECT_FALSE(link->Wait(ticket, InMs(1)).ok());
  }
  EXPECT_EQ(link->Post(Request(1), q_).status().code(), absl::StatusCode::kResourceExhausted);
  store_.delay_ms = 0;
  EXPECT_TRUE(Eventually([&] { return link->Post(Request(1), q_).ok(); }));
}

TEST_F(ShmServerTest, AnAnswerLargerThanItsSlotIsRefused) {
  Start();
  const auto link = Connect();
  wire::SelectRequest request = Request(1);
  request.top_k = 4096;  // 2 heads * 4096 * 68 bytes > 64 KiB
  const auto answer = link->Wait(link->Post(request, q_).value(), InMs(20'000));
  EXPECT_EQ(answer.status().code(), absl::StatusCode::kResourceExhausted) << answer.status();
}

TEST_F(ShmServerTest, TheSocketIsTheLease) {
  Start();
  auto link = Connect();
  EXPECT_EQ(store_.leases(), 1u);
  link.reset();
  EXPECT_TRUE(Eventually([&] { return store_.leases() == 0; }));
  EXPECT_TRUE(Eventually([&] { return server_->stats().connections == 0; }));
}

TEST_F(ShmServerTest, AKilledWorkerLosesItsLease) {
  const pid_t child = ::fork();  // before our own threads exist
  if (child == 0) {
    StoreLinkOptions options;
    options.socket_path = options_.socket_path;
    auto link = StoreLink::Connect(options);
    for (; !link.ok(); link = StoreLink::Connect(options)) ::usleep(1000);
    ::pause();
    ::_exit(link.ok() ? 0 : 1);
  }
  Start();
  ASSERT_TRUE(
      Eventually([&] { return server_->stats().connections == 1 && store_.leases() == 1; }));
  ::kill(child, SIGKILL);
  EXPECT_TRUE(Eventually([&] { return store_.leases() == 0; }));
  ::waitpid(child, nullptr, 0);
}

TEST_F(ShmServerTest, AWaitingWorkerLearnsThatTheStoreIsGone) {
  Start();
  const auto link = Connect();
  store_.delay_ms = 200;
  ASSERT_TRUE(link->Post(Request(1), q_).ok());
  const uint64_t second = link->Post(Request(1), q_).value();
  std::thread ender([&] { server_.reset(); });
  const auto answer = link->Wait(second, InMs(60'000));
  ender.join();
  // Taken up before the end and answered, or not: but never a wait until the deadline.
  EXPECT_TRUE(answer.ok() || answer.status().code() == absl::StatusCode::kUnavailable);
  EXPECT_TRUE(Eventually([&] { return link->Health().code() == absl::StatusCode::kUnavailable; }));
  EXPECT_EQ(link->Post(Request(1), q_).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(store_.leases(), 0u);
}

TEST_F(ShmServerTest, AStoreThatIsStoppedIsASilentStore) {
  // The store must be another process, for it to be stopped alone.
  const pid_t child = ::fork();
  if (child == 0) {
    auto server = ShmServer::Start(&store_, options_);
    ::pause();
    ::_exit(server.ok() ? 0 : 1);
  }
  StoreLinkOptions options;
  options.socket_path = options_.socket_path;
  options.silence_limit_ms = 500;
  std::unique_ptr<StoreLink> link;
  ASSERT_TRUE(Eventually([&] {
    auto connected = StoreLink::Connect(options);
    if (connected.ok()) link = std::move(*connected);
    return link != nullptr;
  }));
  ASSERT_TRUE(link->Wait(link->Post(Request(1), q_).value(), InMs(20'000)).ok());
  ::kill(child, SIGSTOP);
  ASSERT_EQ(::waitpid(child, nullptr, WUNTRACED), child) << "every thread of it has stopped";
  const uint64_t ticket = link->Post(Request(1), q_).value();
  const int64_t deadline_ns = InMs(50);
  EXPECT_EQ(link->Wait(ticket, deadline_ns).status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_GE(MonotonicNowNs(), deadline_ns);
  EXPECT_TRUE(Eventually([&] { return !link->Health().ok(); }));
  ::kill(child, SIGCONT);
  EXPECT_TRUE(Eventually([&] { return link->Health().ok(); })) << "alive again";
  EXPECT_TRUE(link->Wait(link->Post(Request(1), q_).value(), InMs(20'000)).ok());
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  EXPECT_TRUE(Eventually([&] { return !link->Health().ok(); }));
  ::unlink(options_.socket_path.c_str());
}

TEST_F(ShmServerTest, AnEpochThatIsNotTheStoresIsRefusedAtTheDoor) {
  Start();
  StoreLinkOptions options;
  options.socket_path = options_.socket_path;
  options.expected_epoch = store_.epoch() + 1;
  const auto link = StoreLink::Connect(options);
  EXPECT_EQ(link.status().code(), absl::StatusCode::kFailedPrecondition) << link.status();
  EXPECT_EQ(server_->stats().refused_hellos, 1);
}

TEST_F(ShmServerTest, MoreConnectionsThanTheLimitAreRefusedAndNamed) {
  options_.max_connections = 1;
  Start();
  const auto first = Connect();
  StoreLinkOptions options;
  options.socket_path = options_.socket_path;
  const auto second = StoreLink::Connect(options);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kResourceExhausted) << second.status();
}

TEST_F(ShmServerTest, ASilentClientHoldsNoConnectionForLong) {
  options_.hello_timeout_ms = 50;
  Start();
  const auto silent = ConnectUnix(options_.socket_path);
  ASSERT_TRUE(silent.ok());
  EXPECT_TRUE(Eventually([&] { return server_->stats().refused_hellos == 1; }));
}

TEST_F(ShmServerTest, OptionsOutOfRangeAreNamed) {
  options_.selection_threads = 0;
  const auto server = ShmServer::Start(&store_, options_);
  EXPECT_EQ(server.status(), absl::InvalidArgumentError("selection_threads is 0, limit 1 to 64"));
}

}  // namespace
}  // namespace tailor
