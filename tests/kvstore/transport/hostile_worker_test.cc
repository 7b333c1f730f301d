// A worker that writes whatever it likes into its ring. The store answers errors or hangs up; it
// never crashes, and serves others as before.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <random>

#include "common/shm/fd_passing.h"
#include "common/shm/unix_socket.h"
#include "kvstore/client/store_link.h"
#include "kvstore/layout.h"
#include "kvstore/transport/shm_server.h"
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

// The worker's end in raw bytes.
struct RawWorker {
  UniqueFd socket;
  wire::HelloReply reply{};
  Mapping ring;

  wire::RingHeader* header() { return reinterpret_cast<wire::RingHeader*>(ring.data()); }
  wire::SelectRequest* requests() {
    return reinterpret_cast<wire::SelectRequest*>(ring.data() + reply.ring.requests_offset);
  }
  float* queries() { return reinterpret_cast<float*>(ring.data() + reply.ring.queries_offset); }
  wire::ResponseSlot& slot(uint64_t ticket) {
    return reinterpret_cast<wire::ResponseSlot*>(
        ring.data() + reply.ring.responses_offset)[ticket % reply.ring.response_slots];
  }
  bool HungUp() const { return HasHungUp(socket.get()); }
};

class HostileWorker : public ::testing::Test {
 protected:
  HostileWorker() {
    options_.socket_path = ::testing::TempDir() + "/hostile_" + std::to_string(::getpid());
    options_.selection_threads = 2;
    options_.max_query_floats = 64;
    options_.payload_bytes = 1 << 16;
    auto server = ShmServer::Start(&store_, options_);
    TS_CHECK(server.ok());
    server_ = std::move(*server);
    StoreLinkOptions link_options;
    link_options.socket_path = options_.socket_path;
    honest_ = StoreLink::Connect(link_options).value();
  }

  RawWorker Connect() {
    RawWorker worker;
    worker.socket = ConnectUnix(options_.socket_path).value();
    wire::Hello hello{};
    hello.magic = wire::kMagic;
    hello.version = wire::kVersion;
    hello.layout_version = kLayoutVersion;
    hello.page_tokens = kPageTokens;
    TS_CHECK(SendFds(worker.socket.get(), std::as_bytes(std::span(&hello, 1)), {}).ok());
    auto message = ReceiveFds(worker.socket.get(),
                              std::as_writable_bytes(std::span(&worker.reply, 1)), InMs(20'000));
    TS_CHECK(message.ok() && message->fds.size() == 2 && worker.reply.status == 0);
    worker.ring = Mapping::Map(message->fds[1].get(), worker.reply.ring.ring_bytes).value();
    return worker;
  }

  wire::SelectRequest Good(const RawWorker& worker, uint64_t ticket) const {
    wire::SelectRequest request{};
    request.version = wire::kVersion;
    request.q_floats = 32;
    request.ticket = ticket;
    request.epoch = worker.reply.epoch;
    request.sequence = request.generation = 1;
    request.deadline_ns = InMs(20'000);
    request.top_k = 4;
    request.channels = 8;
    return request;
  }

  // Posts a request as it is and returns the answer's status code.
  absl::StatusCode Ask(RawWorker& worker, uint64_t ticket, wire::SelectRequest request) {
    request.check ^= wire::RequestCheck(request);  // a wrong check stays wrong by as much
    worker.requests()[ticket % worker.reply.ring.request_slots] = request;
    worker.header()->requests.head.store(static_cast<uint32_t>(ticket + 1));
    FutexWakeSome(worker.header()->requests.head, 1);
    wire::ResponseSlot& slot = worker.slot(ticket);
    EXPECT_TRUE(Eventually([&] { return slot.done.load() == static_cast<uint32_t>(ticket + 1); }));
    return static_cast<absl::StatusCode>(slot.response.status);
  }

  void ExpectTheHonestWorkerIsServed() {
    wire::SelectRequest request{};
    request.sequence = request.generation = 1;
    request.deadline_ns = InMs(20'000);
    request.top_k = 4;
    request.channels = 8;
    const std::vector<float> q(32, 5.0f);
    const auto ticket = honest_->Post(request, q);
    ASSERT_TRUE(ticket.ok()) << ticket.status();
    const auto answer = honest_->Wait(*ticket, InMs(20'000));
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(ToFloat(answer->rows[0]), 5.0f);
  }

  FakeStore store_;
  ShmServerOptions options_;
  std::unique_ptr<ShmServer> server_;
  std::unique_ptr<StoreLink> honest_;
};

TEST_F(HostileWorker, EveryMalformedFieldIsRefusedAndCounted) {
  RawWorker worker = Connect();
  uint64_t ticket = 0;
  ASSERT_EQ(Ask(worker, ticket++, Good(worker, 0)), absl::StatusCode::kOk);
  const std::vector<std::function<void(wire::SelectRequest&)>> spoilers = {
      [](auto& r) { r.version = 9; },   [](auto& r) { r.check = 1; },
      [](auto& r) { r.ticket += 1; },   [](auto& r) { r.q_floats = 0; },
      [](auto& r) { r.q_floats = 65; }, [](auto& r) { r.q_floats = 65535; },
  };
  for (const auto& spoil : spoilers) {
    wire::SelectRequest request = Good(worker, ticket);
    spoil(request);
    EXPECT_EQ(Ask(worker, ticket, request), absl::StatusCode::kInvalidArgument);
    ++ticket;
  }
  EXPECT_EQ(server_->stats().malformed_requests, static_cast<int64_t>(spoilers.size()));
  EXPECT_EQ(Ask(worker, ticket, Good(worker, ticket)), absl::StatusCode::kOk)
      << "a refused request must not spoil the next";
}

TEST_F(HostileWorker, AQueryThatIsNotFiniteIsRefused) {
  RawWorker worker = Connect();
  worker.queries()[3] = std::nanf("");
  EXPECT_EQ(Ask(worker, 0, Good(worker, 0)), absl::StatusCode::kInvalidArgument);
}

TEST_F(HostileWorker, ARequestOfAnotherEpochIsRefusedAndCounted) {
  RawWorker worker = Connect();
  wire::SelectRequest request = Good(worker, 0);
  request.epoch += 1;
  EXPECT_EQ(Ask(worker, 0, request), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(server_->stats().stale_requests, 1);
  EXPECT_EQ(store_.selects.load(), 0);
}

TEST_F(HostileWorker, AnImpossibleRingIndexEndsTheConnectionAndItsLease) {
  RawWorker worker = Connect();
  EXPECT_EQ(store_.leases(), 2u);
  worker.header()->requests.head.store(0x80000000u);
  FutexWakeSome(worker.header()->requests.head, 1);
  EXPECT_TRUE(Eventually([&] { return worker.HungUp(); }));
  EXPECT_TRUE(Eventually([&] { return store_.leases() == 1; }));
  EXPECT_EQ(server_->stats().broken_connections, 1);
  ExpectTheHonestWorkerIsServed();
}

TEST_F(HostileWorker, MoreRequestsThanMayBePendingEndTheConnection) {
  store_.delay_ms = 100;
  RawWorker worker = Connect();
  for (uint64_t ticket = 0; ticket < 8; ++ticket) {
    wire::SelectRequest request = Good(worker, ticket);
    request.check = wire::RequestCheck(request);
    worker.requests()[ticket] = request;
  }
  worker.header()->requests.head.store(8);
  FutexWakeSome(worker.header()->requests.head, 1);
  store_.delay_ms = 0;
  // The slots may be answered fast enough; whichever happens, nothing else does.
  EXPECT_TRUE(Eventually([&] { return worker.HungUp() || worker.slot(7).done.load() == 8; }));
  ExpectTheHonestWorkerIsServed();
}

TEST_F(HostileWorker, TalkingAfterTheHelloEndsTheConnection) {
  RawWorker worker = Connect();
  const std::byte noise[16] = {};
  ASSERT_TRUE(SendFds(worker.socket.get(), noise, {}).ok());
  EXPECT_TRUE(Eventually([&] { return worker.HungUp(); }));
  EXPECT_TRUE(Eventually([&] { return store_.leases() == 1; }));
}

TEST_F(HostileWorker, AHelloOfAnotherSizeOrMagicIsRefused) {
  for (const size_t bytes : {size_t{1}, size_t{63}, size_t{64}, size_t{65}, size_t{4096}}) {
    const UniqueFd socket = ConnectUnix(options_.socket_path).value();
    const std::vector<std::byte> noise(bytes, std::byte{0x5a});
    ASSERT_TRUE(SendFds(socket.get(), noise, {}).ok());
    wire::HelloReply reply{};
    const auto message =
        ReceiveFds(socket.get(), std::as_writable_bytes(std::span(&reply, 1)), InMs(20'000));
    ASSERT_TRUE(message.ok()) << message.status();
    EXPECT_EQ(reply.status, static_cast<uint32_t>(absl::StatusCode::kInvalidArgument));
    EXPECT_TRUE(message->fds.empty()) << "memory was handed to a stranger";
  }
  ExpectTheHonestWorkerIsServed();
}

// Random bytes over the shared words and the request slots, while the store reads them.
TEST_F(HostileWorker, RandomBytesInTheRingNeverHarmTheStoreOrOthers) {
  const uint64_t seed = 0x7a11;
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  for (int connection = 0; connection < 60; ++connection) {
    RawWorker worker = Connect();
    std::byte* const bytes = worker.ring.data();
    const uint64_t front = worker.reply.ring.payloads_offset;  // all but the payloads
    for (int round = 0; round < 300 && !worker.HungUp(); ++round) {
      const uint64_t at = random() % (front - 8) / 8 * 8;
      const uint64_t noise = random();
      std::memcpy(bytes + at, &noise, sizeof(noise));
      if (round % 3 == 0) {  // a plausible request, with one byte spoiled after its check was made
        const uint32_t index = worker.header()->requests.tail.load();
        wire::SelectRequest request = Good(worker, index);
        reinterpret_cast<uint8_t*>(&request)[8 + random() % 56] = static_cast<uint8_t>(random());
        request.check = wire::RequestCheck(request);
        worker.requests()[index % worker.reply.ring.request_slots] = request;
      }
      worker.header()->requests.head.store(worker.header()->requests.tail.load() +
                                           static_cast<uint32_t>(random() % 9));
      FutexWakeSome(worker.header()->requests.head, 2);
    }
    if (connection % 10 == 0) ExpectTheHonestWorkerIsServed();
  }
  ExpectTheHonestWorkerIsServed();
  EXPECT_GT(server_->stats().malformed_requests + server_->stats().broken_connections, 0);
  EXPECT_TRUE(Eventually([&] { return store_.leases() == 1; }));
}

}  // namespace
}  // namespace tailor
