// The doorbell's two ops on the device: the bytes they write, what they wait for, and a whole
// selection through the real transport. The protocol's faults are
// tests/worker/cache/doorbell_line_test.cc's.
#include "worker/ops/doorbell.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "kvstore/client/shm_kv_client.h"
#include "kvstore/page_store.h"
#include "kvstore/transport/served_page_store.h"
#include "kvstore/transport/shm_server.h"
#include "tests/gpu/gpu_test.h"
#include "tests/kvstore/client/forwarding_control.h"
#include "tests/kvstore/client/written_sequence.h"
#include "worker/cache/doorbell_fetcher.h"

namespace tailor {
namespace {

class DoorbellGpuTest : public GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    stream_ = TestsRunOnCpu() ? &host_ : ops_->doorbell();
    ASSERT_NE(stream_, nullptr);
  }
  DoorbellMemory Shared(int64_t query_floats) {
    bytes_ = *stream_->Shared(DoorbellMemory::Bytes(query_floats));
    return DoorbellMemory(bytes_, query_floats);
  }

  HostDoorbell host_;
  DoorbellStream* stream_ = nullptr;
  std::span<std::byte> bytes_;
};

TEST_F(DoorbellGpuTest, SharedMemoryIsZeroedAndOnAPage) {
  Shared(300);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(bytes_.data()) % 64, 0u);
  EXPECT_TRUE(
      std::all_of(bytes_.begin(), bytes_.end(), [](std::byte b) { return b == std::byte{}; }));
}

TEST_F(DoorbellGpuTest, ARingWritesTheQueryAndItsNumberAndNoOtherByte) {
  for (const int64_t floats : {1, 64, 257, 4096}) {
    const DoorbellMemory memory = Shared(4096);
    std::memset(bytes_.data(), 0xab, bytes_.size());
    std::vector<std::byte> want(bytes_.begin(), bytes_.end());
    for (const uint64_t number : {uint64_t{1}, uint64_t{2}, uint64_t{7}, ~uint64_t{0} >> 1}) {
      const HostMatrix q = RandomMatrix(1, floats, number, 2);
      const DeviceMatrix device_q(*ops_, q);
      stream_->Ring(device_q.view().row(0), memory, number);
      ops_->Synchronize();
      std::memcpy(want.data(), &number, sizeof(number));
      std::memcpy(want.data() + DoorbellMemory::kQueriesOffset + number % kDoorbellSlots * 4096 * 4,
                  q.row(0).data(), q.row(0).size_bytes());
      ASSERT_EQ(std::memcmp(want.data(), bytes_.data(), want.size()), 0)
          << floats << " floats, number " << number;
    }
  }
}

TEST_F(DoorbellGpuTest, WhatIsAnsweredAlreadyIsNotWaitedFor) {
  const DoorbellMemory memory = Shared(64);
  memory.words().answered.store(5, std::memory_order_release);
  for (const uint64_t number : {1, 4, 5}) stream_->Await(memory, number);
  ops_->Synchronize();
  EXPECT_EQ(memory.words().rung.load(), 0u);
  EXPECT_EQ(memory.words().answered.load(), 5u);
}

// The host's side: sees the ring, writes rows, answers. What the stream reads after its wait is
// that.
TEST_F(DoorbellGpuTest, OpsAfterAWaitReadWhatWasWrittenBeforeTheAnswer) {
  constexpr int kRounds = 50, kRow = 64;
  const DoorbellMemory memory = Shared(kRow);
  const std::span<std::byte> mapped = *stream_->Shared(2 * kRow * sizeof(float));
  auto* const values = reinterpret_cast<float*>(mapped.data());
  const HostMatrix q = RandomMatrix(1, kRow, 3, 2);
  const DeviceMatrix device_q(*ops_, q);
  auto out = *ops_->Allocate(2 * kRow * static_cast<int64_t>(sizeof(BFloat16)));
  BFloat16* const rows[] = {out.As<BFloat16>()};
  std::thread host([&] {
    for (uint64_t number = 1; number <= kRounds; ++number) {
      while (memory.words().rung.load(std::memory_order_acquire) < number) {
        std::this_thread::yield();
      }
      for (int i = 0; i < 2 * kRow; ++i) values[i] = static_cast<float>(number);
      memory.words().answered.store(number, std::memory_order_release);
    }
  });
  for (uint64_t number = 1; number <= kRounds; ++number) {
    stream_->Ring(device_q.view().row(0), memory, number);
    stream_->Await(memory, number);
    ops_->WriteRows({values, 1, kRow}, {values + kRow, 1, kRow}, rows, kRow);
    std::vector<BFloat16> got(2 * kRow);
    ops_->Download(out.data(), std::as_writable_bytes(std::span(got)));
    for (const BFloat16 value : got) EXPECT_EQ(ToFloat(value), static_cast<float>(number));
  }
  host.join();
}

// The store and its transport, and what the plain fetcher gives for a few queries.
class ServedSequence {
 public:
  static constexpr int kQueries = 4, kQHeads = 4;

  ServedSequence() {
    policy.selector = Selector::kStore;
    policy.select = {.channels = 4, .top_k = 32, .sink_tokens = 4};
    ShmServerOptions options;
    options.socket_path = ::testing::TempDir() + "/doorbell_gpu_" + std::to_string(::getpid());
    server_ = *ShmServer::Start(&served_, options);
    client = *ShmKvClient::Connect({.socket_path = options.socket_path},
                                   std::make_unique<ForwardingControl>(&served_));
    pool_ = *client->OpenPool(SmallPool());
    sequence_ = *WriteSequence(*client, pool_, "s", 3 * kPageTokens, 1);
    const auto plain = MakeStoreFetcher(client.get(), policy.select);
    for (uint32_t i = 0; i < kQueries; ++i) {
      queries.push_back(KnownQuery(pool_.shape(), kQHeads, 5 + i));
      TS_CHECK(plain->Post(1, sealed(), queries[i]).ok());
      const SelectedRows rows = *plain->Take(1);
      answers.emplace_back(rows.rows.begin(), rows.rows.end());
    }
  }
  SealedPages sealed() const {
    return {.pool = &pool_, .pages = sequence_.pages, .sequence = sequence_.handle};
  }

  LayerPolicy policy;
  std::vector<std::vector<float>> queries;
  std::vector<std::vector<BFloat16>> answers;
  std::unique_ptr<KvClient> client;

 private:
  ServedPageStore served_{*PageStore::Create({.arena_bytes = int64_t{16} << 20})};
  std::unique_ptr<ShmServer> server_;
  PoolView pool_;
  WrittenSequence sequence_;
};

// Wired as the engine wires them.
TEST_F(DoorbellGpuTest, AFetcherOnTheDeviceFetchesThePlainFetchersRows) {
  if (TestsRunOnCpu()) GTEST_SKIP() << "the CPU backend's queries need no doorbell";
  const ServedSequence served;
  const auto query_floats = static_cast<int64_t>(served.queries[0].size());
  {
    const auto line =
        OpenDoorbellLine(ops_.get(), served.client.get(), served.policy, query_floats);
    ASSERT_NE(line, nullptr);
    const auto fetcher = MakeDoorbellFetcher(line.get(), served.policy.select);
    auto device_q = *ops_->Allocate(query_floats * static_cast<int64_t>(sizeof(float)));
    for (int step = 0; step < 20; ++step) {
      const std::vector<float>& q = served.queries[step % ServedSequence::kQueries];
      ops_->Upload(std::as_bytes(std::span(q)), device_q.data());
      ASSERT_TRUE(fetcher->Post(1, served.sealed(), {device_q.As<float>(), q.size()}).ok());
      const SelectedRows rows = *fetcher->Take(1);
      std::vector<BFloat16> got(rows.rows.size());
      const auto* staged = ops_->Stage(std::as_bytes(rows.rows));
      EXPECT_EQ(staged, reinterpret_cast<const std::byte*>(rows.rows.data())) << "read in place";
      ops_->Download(staged, std::as_writable_bytes(std::span(got)));
      EXPECT_TRUE(fetcher->Settle().ok());
      EXPECT_EQ(got, served.answers[step % ServedSequence::kQueries]) << step;
    }
  }
  ops_.reset();  // before the memory that it has mapped
}

}  // namespace
}  // namespace tailor
