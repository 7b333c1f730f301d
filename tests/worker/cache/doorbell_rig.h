// What the doorbell's tests share: the real store and its transport behind an UnreliableStore, one
// written sequence, a few queries whose answers were fetched the plain way, and a fake device that
// runs decode steps of several layers as SequenceCache enqueues them.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <vector>

#include "kvstore/client/shm_kv_client.h"
#include "kvstore/transport/shm_server.h"
#include "tests/kvstore/client/forwarding_control.h"
#include "tests/kvstore/client/written_sequence.h"
#include "tests/kvstore/transport/unreliable_store.h"
#include "tests/worker/cache/fake_device.h"
#include "worker/cache/doorbell_fetcher.h"

namespace tailor {

// An answer, out of memory that later ones overwrite.
struct FetchedRows {
  int32_t count = 0;
  std::vector<int32_t> tokens;
  std::vector<BFloat16> rows;
  friend bool operator==(const FetchedRows&, const FetchedRows&) = default;
};
inline FetchedRows CopyOf(const SelectedRows& selected) {
  return {selected.count,
          {selected.tokens.begin(), selected.tokens.end()},
          {selected.rows.begin(), selected.rows.end()}};
}

inline std::string FreshSocketPath() {
  static int count = 0;
  return ::testing::TempDir() + "/doorbell_" + std::to_string(::getpid()) + "_" +
         std::to_string(++count);
}

// Deadlines that no loaded machine passes by accident.
inline constexpr int64_t kNoDeadlineMs = 120'000;

struct DoorbellRigOptions {
  uint32_t seed = 1;
  int64_t select_deadline_ms = kNoDeadlineMs;
  DoorbellOptions line = {.spin_us = 50, .nap_us = 20, .ring_deadline_ms = kNoDeadlineMs};
};

class DoorbellRig {
 public:
  static constexpr int kQHeads = 4, kQueries = 8, kLayers = 3;
  static constexpr int64_t kPages = 3;
  // After 2 * kQueries + 1 plain selections and three that bring the turn round to slot 0.
  static constexpr uint64_t kFirstTicket = 20;
  static constexpr SelectParams kParams = {.channels = 4, .top_k = 32, .sink_tokens = 4};

  explicit DoorbellRig(const DoorbellRigOptions& options = {})
      : unreliable_(&served_, options.seed), device_(options.seed) {
    ShmServerOptions server;
    server.socket_path = FreshSocketPath();
    server.selection_threads = 2;
    server_ = *ShmServer::Start(&unreliable_, server);
    ShmKvClientOptions client;
    client.socket_path = server.socket_path;
    client.select_deadline_ms = options.select_deadline_ms;
    client_ = *ShmKvClient::Connect(client, std::make_unique<ForwardingControl>(&served_));
    pool_ = *client_->OpenPool(SmallPool());
    sequence_ = *WriteSequence(*client_, pool_, "s", kPages * kPageTokens, 1);
    LearnAnswers();
    line_ = *DoorbellLine::Make(&device_, client_->promised_selects(),
                                int64_t{kQHeads} * pool_.shape().head_dim, options.line);
  }
  ~DoorbellRig() { unreliable_.LetAll(); }

  std::unique_ptr<RowFetcher> NewFetcher() { return MakeDoorbellFetcher(line_.get(), kParams); }
  SealedPages Sealed() const {
    return {.pool = &pool_, .pages = sequence_.pages, .sequence = sequence_.handle};
  }
  // The stream computes query `query` into the step's one buffer and posts it.
  absl::Status Post(RowFetcher& fetcher, int layer, int query) {
    device_.Enqueue([this, query] {
      std::copy(queries_[query].begin(), queries_[query].end(), device_q_.begin());
    });
    return fetcher.Post(layer, Sealed(), device_q_);
  }
  // The stream waits for the rows and "attends": copies them to *out.
  absl::Status Take(RowFetcher& fetcher, int layer, FetchedRows* out) {
    TS_ASSIGN_OR_RETURN(const SelectedRows rows, fetcher.Take(layer));
    device_.Enqueue([rows, out] { *out = CopyOf(rows); });
    return absl::OkStatus();
  }
  // What the plain fetcher gave for this query.
  const FetchedRows& Answer(int layer, int query) const { return answers_[layer][query]; }

  // One decode step: layers 1, 2, 1, 2, ..., each posted while the one before is still to be taken.
  // Ok: the step would be committed, and every row was the plain fetcher's (else a test failure).
  absl::Status Step(RowFetcher& fetcher, const std::vector<int>& queries) {
    std::vector<FetchedRows> got(queries.size());
    const auto layer = [](size_t i) { return 1 + static_cast<int>(i % 2); };
    absl::Status enqueued;
    for (size_t i = 0; enqueued.ok() && i < queries.size(); ++i) {
      if (i == 0) enqueued = Post(fetcher, layer(0), queries[0]);
      if (enqueued.ok() && i + 1 < queries.size()) {
        enqueued = Post(fetcher, layer(i + 1), queries[i + 1]);
      }
      if (enqueued.ok()) enqueued = Take(fetcher, layer(i), &got[i]);
    }
    const absl::Status settled = fetcher.Settle();
    device_.Synchronize();  // never hangs: what it waits for is released
    TS_RETURN_IF_ERROR(enqueued);
    TS_RETURN_IF_ERROR(settled);
    for (size_t i = 0; i < queries.size(); ++i) {
      EXPECT_EQ(got[i], Answer(layer(i), queries[i])) << "post " << i << " of the step";
    }
    return absl::OkStatus();
  }

  UnreliableStore& store() { return unreliable_; }
  FakeDevice& device() { return device_; }
  KvClient& client() { return *client_; }
  const WrittenSequence& sequence() const { return sequence_; }
  void EndServer() { server_.reset(); }
  void EndLine() { line_.reset(); }
  ShmServerStats server_stats() const { return server_->stats(); }

 private:
  // Ends with one plain selection more than whole rounds of slots: the first promise, for slot 0,
  // finds the store's turn at another.
  void LearnAnswers() {
    const auto plain = MakeStoreFetcher(client_.get(), kParams);
    for (int i = 0; i < kQueries; ++i) {
      queries_.push_back(KnownQuery(pool_.shape(), kQHeads, static_cast<uint32_t>(5 + i)));
      for (int layer = 1; layer < kLayers; ++layer) {
        TS_CHECK(plain->Post(layer, Sealed(), queries_[i]).ok());
        answers_[layer].push_back(CopyOf(*plain->Take(layer)));
      }
    }
    TS_CHECK(plain->Post(1, Sealed(), queries_[0]).ok() && plain->Take(1).ok());
  }

  std::shared_ptr<PageStore> pages_ = *PageStore::Create({.arena_bytes = int64_t{16} << 20});
  ServedPageStore served_{pages_};
  UnreliableStore unreliable_;
  std::unique_ptr<ShmServer> server_;
  std::unique_ptr<KvClient> client_;
  PoolView pool_;
  WrittenSequence sequence_;
  std::vector<std::vector<float>> queries_;
  std::vector<FetchedRows> answers_[kLayers];
  // Device memory: the stream's alone.
  std::array<float, int64_t{kQHeads} * 16> device_q_{};
  FakeDevice device_;
  std::unique_ptr<DoorbellLine> line_;
};

}  // namespace tailor
