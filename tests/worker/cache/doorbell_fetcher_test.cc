// A sequence whose sparse layers fetch over the doorbell, on the CPU backend, against the same
// sequence without it.
#include "worker/cache/doorbell_fetcher.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "kvstore/client/shm_kv_client.h"
#include "kvstore/transport/shm_server.h"
#include "tests/kvstore/client/forwarding_control.h"
#include "tests/kvstore/transport/unreliable_store.h"
#include "tests/worker/cache/cache_rig.h"
#include "tests/worker/cache/doorbell_rig.h"

namespace tailor {
namespace {

LayerPolicy StorePolicy() {
  LayerPolicy policy = TestPolicy();
  policy.selector = Selector::kStore;
  return policy;
}

// A worker whose store is behind the real transport.
class ServedRig : public CacheRig {
 public:
  explicit ServedRig(int64_t select_deadline_ms = kNoDeadlineMs) : CacheRig(StorePolicy()) {
    ShmServerOptions options;
    options.socket_path = FreshSocketPath();
    server_ = *ShmServer::Start(&unreliable_, options);
    client = *ShmKvClient::Connect(
        {.socket_path = options.socket_path, .select_deadline_ms = select_deadline_ms},
        std::make_unique<ForwardingControl>(&served_));
    PoolSpec spec;
    spec.policy.bytes[0] = 77;
    spec.shape = pool.shape();
    pool = *client->OpenPool(spec);
  }
  ~ServedRig() { unreliable_.LetAll(); }
  void OpenLine() {
    line_ = *DoorbellLine::Make(&stream_, client->promised_selects(), kQHeads * kHeadDim, {});
  }
  absl::StatusOr<std::unique_ptr<SequenceCache>> OpenWithLine(
      std::span<const TokenId> history = kFirstToken) {
    TS_ASSIGN_OR_RETURN(SequenceGrant grant,
                        client->OpenSequence({.tenant = "t", .name = "s"}, history));
    return SequenceCache::Make(ops.get(), client.get(), &pool, policy, CacheMode::kHybrid,
                               std::move(grant), line_.get());
  }
  UnreliableStore& unreliable() { return unreliable_; }

 private:
  ServedPageStore served_{store};
  UnreliableStore unreliable_{&served_, 1};
  std::unique_ptr<ShmServer> server_;
  HostDoorbell stream_;
  std::unique_ptr<DoorbellLine> line_;
};

// What every layer attended in `steps` decode steps after a prefill of 3 pages.
std::vector<HostMatrix> Decoded(ServedRig& rig, SequenceCache& cache, int steps) {
  DrivenSequence driven(rig, cache);
  TS_CHECK(driven.PrefillTo(3 * kPageTokens).ok());
  TS_CHECK(cache.Reserve(3 * kPageTokens + steps).ok());
  std::vector<HostMatrix> all;
  for (int step = 0; step < steps; ++step) {
    auto outs = driven.Decode(TestQuery(static_cast<uint64_t>(step)));
    TS_CHECK(outs.ok());
    for (HostMatrix& out : *outs) all.push_back(std::move(out));
  }
  return all;
}

TEST(DoorbellFetcherTest, ASequenceDecodesTheSameBitsOverTheDoorbell) {
  constexpr int kSteps = 150;  // seals a page on the way
  ServedRig plain, rung;
  rung.OpenLine();
  const auto plain_cache = *plain.Open("s", CacheMode::kHybrid);
  const auto rung_cache = *rung.OpenWithLine();
  const auto want = Decoded(plain, *plain_cache, kSteps);
  const auto got = Decoded(rung, *rung_cache, kSteps);
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    ExpectNear(got[i], want[i], [](int64_t, int64_t) { return 0.0; });
  }
  EXPECT_GT(rung_cache->totals().rows_fetched, 0);
  EXPECT_EQ(rung_cache->totals().rows_fetched, plain_cache->totals().rows_fetched);
  EXPECT_EQ(rung.unreliable().arrived(), plain.unreliable().arrived());
}

TEST(DoorbellFetcherTest, AStepWhoseSelectionFailedCommitsNothing) {
  ServedRig rig;
  rig.OpenLine();
  {
    const auto cache = *rig.OpenWithLine();
    Decoded(rig, *cache, 3);
    rig.unreliable().short_answers = true;
    const auto failed = DrivenSequence(rig, *cache).Decode(TestQuery());
    EXPECT_EQ(failed.status().code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(cache->tokens(), 3 * kPageTokens + 3);
    ASSERT_TRUE(rig.client->DetachSequence(cache->handle()).ok());
  }
  const auto kept = rig.client->OpenSequence({.tenant = "t", .name = "s"}, {});
  ASSERT_TRUE(kept.ok()) << kept.status();
  EXPECT_EQ(kept->committed_tokens, 3 * kPageTokens + 3);
}

TEST(DoorbellFetcherTest, ASequenceEndsWhileTheStoreStillOwesItAnAnswer) {
  ServedRig rig(50);
  rig.OpenLine();
  const auto cache = *rig.OpenWithLine();
  Decoded(rig, *cache, 1);
  rig.unreliable().HoldAll();
  EXPECT_EQ(DrivenSequence(rig, *cache).Decode(TestQuery()).status().code(),
            absl::StatusCode::kDeadlineExceeded);
}

TEST(DoorbellFetcherTest, ThereIsALineOnlyWhereBackendStoreAndPolicyHaveUseForIt) {
  ServedRig rig;
  LocalKvClient local(rig.store);
  const auto ringing = *MakeCpuBackend({.threads = 1, .doorbell = true});
  EXPECT_NE(OpenDoorbellLine(ringing.get(), rig.client.get(), rig.policy, 64), nullptr);
  EXPECT_EQ(OpenDoorbellLine(rig.ops.get(), rig.client.get(), rig.policy, 64), nullptr);
  EXPECT_EQ(OpenDoorbellLine(ringing.get(), &local, rig.policy, 64), nullptr);
  EXPECT_EQ(OpenDoorbellLine(ringing.get(), rig.client.get(), TestPolicy(), 64), nullptr);
}

}  // namespace
}  // namespace tailor
