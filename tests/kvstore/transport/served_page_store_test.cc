// The real page store behind the ring, asked for nonsense.
#include "kvstore/transport/served_page_store.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <random>

#include "kvstore/client/shm_kv_client.h"
#include "kvstore/client/store_link.h"
#include "kvstore/transport/shm_server.h"
#include "tests/kvstore/client/forwarding_control.h"
#include "tests/kvstore/client/written_sequence.h"

namespace tailor {
namespace {

TEST(ServedPageStore, RandomSelectionsAreAnsweredOrRefusedAndTheBooksStillAddUp) {
  const auto store = PageStore::Create({.arena_bytes = int64_t{16} << 20});
  ASSERT_TRUE(store.ok()) << store.status();
  ServedPageStore served(*store);
  ShmServerOptions options;
  options.socket_path = ::testing::TempDir() + "/served_" + std::to_string(::getpid());
  options.selection_threads = 2;
  const auto server = ShmServer::Start(&served, options);
  ASSERT_TRUE(server.ok()) << server.status();
  ShmKvClientOptions client_options;
  client_options.socket_path = options.socket_path;
  const auto client =
      ShmKvClient::Connect(client_options, std::make_unique<ForwardingControl>(&served));
  ASSERT_TRUE(client.ok()) << client.status();
  const PoolView pool = (*client)->OpenPool(SmallPool()).value();
  const auto sequence = WriteSequence(**client, pool, "a", 2 * kPageTokens, 1);
  ASSERT_TRUE(sequence.ok()) << sequence.status();

  StoreLinkOptions link_options;
  link_options.socket_path = options.socket_path;
  const auto link = StoreLink::Connect(link_options);
  ASSERT_TRUE(link.ok()) << link.status();
  // This lease has a sequence too, so that some of the noise gets as far as the pages.
  const auto mine =
      served.OpenSequence((*link)->lease(), served.OpenPool((*link)->lease(), SmallPool())->pool,
                          {.tenant = "t", .name = "mine"}, sequence->tokens);
  ASSERT_TRUE(mine.ok()) << mine.status();
  const uint64_t seed = 20240608;
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  const auto mostly = [&](uint64_t right, uint64_t noise) { return random() % 5 ? right : noise; };
  int served_count = 0;
  for (int round = 0; round < 3000; ++round) {
    wire::SelectRequest request{};
    request.sequence = mostly(mine->grant.handle.id, random());
    request.generation = mostly(mine->grant.handle.generation, random() % 4);
    request.deadline_ns = MonotonicNowNs() + int64_t{20'000'000'000};
    request.layer = static_cast<uint32_t>(mostly(1 + random() % 2, random()));
    request.sealed_pages = static_cast<uint32_t>(mostly(mine->grant.sealed_pages, random()));
    request.channels = static_cast<uint16_t>(mostly(4, random()));
    request.top_k = static_cast<uint16_t>(mostly(random() % 300, random()));
    request.sink_tokens = static_cast<uint8_t>(mostly(random() % 200, random()));
    request.group = static_cast<uint8_t>(mostly(random() % 3, random()));
    request.rescore_extra = static_cast<uint16_t>(mostly(random() % 300, random()));
    std::vector<float> q(mostly(64, 1 + random() % 200));
    for (float& value : q) value = static_cast<float>(random() % 1000) * 1e35f;
    const auto ticket = (*link)->Post(request, q);
    ASSERT_TRUE(ticket.ok()) << ticket.status();
    const auto answer = (*link)->Wait(*ticket, MonotonicNowNs() + int64_t{20'000'000'000});
    served_count += answer.ok();
    if (!answer.ok()) {
      EXPECT_TRUE(answer.status().code() == absl::StatusCode::kInvalidArgument ||
                  answer.status().code() == absl::StatusCode::kFailedPrecondition)
          << answer.status();
    }
  }
  EXPECT_GT(served_count, 100) << "the noise must not all be refused at the first check";
  EXPECT_TRUE((*store)->Audit().ok()) << (*store)->Audit();
  const std::vector<float> q = KnownQuery(pool.shape(), 4, 5);
  EXPECT_TRUE(SelectNow(**client, {.sequence = sequence->handle,
                                   .layer = 1,
                                   .sealed_pages = 2,
                                   .q = q,
                                   .params = {.channels = 4}})
                  .ok());
}

}  // namespace
}  // namespace tailor
