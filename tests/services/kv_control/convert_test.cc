#include "services/kv_control/convert.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>

namespace tailor {
namespace {

PoolSpec Spec() {
  PoolSpec spec;
  spec.model.bytes[31] = 7;
  spec.policy.bytes[0] = 9;
  spec.shape = {.layers = 3, .kv_heads = 2, .head_dim = 16, .sparse_layers = {0, 2}};
  spec.max_bytes = 1 << 20;
  return spec;
}

TEST(KvConvert, APoolSpecSurvivesTheRoundTrip) {
  v1::OpenPoolRequest request;
  Fill(Spec(), &request);
  const auto parsed = ParsePoolSpec(request);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->model, Spec().model);
  EXPECT_EQ(parsed->policy, Spec().policy);
  EXPECT_EQ(parsed->shape, Spec().shape);
  EXPECT_EQ(parsed->max_bytes, Spec().max_bytes);
}

TEST(KvConvert, APoolSpecOutOfRangeIsRefused) {
  v1::OpenPoolRequest good;
  Fill(Spec(), &good);
  v1::OpenPoolRequest bad = good;
  bad.set_model_fingerprint("short");
  EXPECT_EQ(ParsePoolSpec(bad).status(),
            absl::InvalidArgumentError("model fingerprint has 5 bytes, not 32"));
  bad = good;
  bad.set_max_bytes(-1);
  EXPECT_EQ(ParsePoolSpec(bad).status().code(), absl::StatusCode::kInvalidArgument);
  bad = good;
  bad.mutable_shape()->set_layers(-3);
  EXPECT_EQ(ParsePoolSpec(bad).status().code(), absl::StatusCode::kInvalidArgument);
  bad = good;
  bad.mutable_shape()->add_sparse_layers(77);
  EXPECT_EQ(ParsePoolSpec(bad).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(KvConvert, AGrantSurvivesTheRoundTrip) {
  SlottedGrant grant;
  grant.slot = 17;
  grant.grant = {.handle = {.id = 1ull << 60, .generation = 5},
                 .pages = {PageId{4}, PageId{0}, PageId{0xfffffffe}},
                 .sealed_pages = 2,
                 .committed_tokens = 300,
                 .budget_doublings = 3,
                 .exact = false};
  v1::SequenceGrant message;
  Fill(grant, &message);
  const SlottedGrant parsed = ParseGrant(message);
  EXPECT_EQ(parsed.slot, 17u);
  EXPECT_EQ(parsed.grant.handle, grant.grant.handle);
  EXPECT_EQ(parsed.grant.pages, grant.grant.pages);
  EXPECT_EQ(parsed.grant.sealed_pages, 2);
  EXPECT_EQ(parsed.grant.committed_tokens, 300);
  EXPECT_EQ(parsed.grant.budget_doublings, 3);
  EXPECT_FALSE(parsed.grant.exact);
}

TEST(KvConvert, EveryFigureOfTheStatsSurvivesTheRoundTrip) {
  StoreStats stats;
  int64_t next = 1;
  for (int64_t* field :
       {&stats.arena_bytes, &stats.pool_bytes, &stats.pages_total, &stats.pages_free,
        &stats.pages_open, &stats.pages_sealed, &stats.pages_shared, &stats.page_bytes,
        &stats.sequences_attached, &stats.sequences_detached, &stats.evicted_sequences,
        &stats.checksum_failures, &stats.stale_refusals, &stats.selects,
        &stats.exact_queries}) {
    *field = next++;
  }
  stats.epoch = 99;
  v1::GetStatsResponse message;
  Fill(stats, &message);
  const StoreStats parsed = ParseStats(message);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(&parsed), sizeof(parsed)),
            std::string(reinterpret_cast<const char*>(&stats), sizeof(stats)))
      << "a field is not carried over";
}

TEST(KvConvert, ExactQueriesAndAnswersSurviveTheRoundTripAndBadOnesAreRefused) {
  const ExactCall call = {.sequence = {.id = 3, .generation = 4},
                          .sealed_pages = 5,
                          .sink_tokens = 6,
                          .queries = {{1, 2, {0.5f, -1.0f}}, {7, 0, {2.0f}}}};
  v1::AttendExactlyRequest request;
  Fill(call, &request);
  const auto parsed = ParseExactCall(request);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->sequence, call.sequence);
  EXPECT_EQ(parsed->sealed_pages, 5);
  EXPECT_EQ(parsed->sink_tokens, 6);
  ASSERT_EQ(parsed->queries.size(), 2u);
  EXPECT_EQ(parsed->queries[0].layer, 1);
  EXPECT_EQ(parsed->queries[0].kv_head, 2);
  EXPECT_EQ(parsed->queries[0].q, call.queries[0].q);
  v1::AttendExactlyResponse response;
  Fill({{.lse = {1.0f}, .out = {2.0f, 3.0f}}, {.lse = {}, .out = {}}}, &response);
  const std::vector<ExactOutput> answers = ParseExactAnswers(response);
  ASSERT_EQ(answers.size(), 2u);
  EXPECT_EQ(answers[0].lse, std::vector<float>{1.0f});
  EXPECT_EQ(answers[0].out, (std::vector<float>{2.0f, 3.0f}));
  request.mutable_queries(0)->set_q(0, std::numeric_limits<float>::infinity());
  EXPECT_EQ(ParseExactCall(request).status(),
            absl::InvalidArgumentError("exact query of layer 1 is not finite"));
  for (int i = 0; i < 1025; ++i) request.add_queries();
  EXPECT_EQ(ParseExactCall(request).status(),
            absl::InvalidArgumentError("call has 1027 exact queries, limit 1024"));
}

TEST(KvConvert, NamesOriginsAndHistoriesOutOfRangeAreRefused) {
  v1::SequenceKey key;
  key.set_tenant("t");
  EXPECT_EQ(ParseKey(key).status(),
            absl::InvalidArgumentError("sequence name has 0 bytes, limit 1 to 256"));
  key.set_name(std::string(257, 'x'));
  EXPECT_EQ(ParseKey(key).status().code(), absl::StatusCode::kInvalidArgument);
  key.set_name("n");
  EXPECT_TRUE(ParseKey(key).ok());
  EXPECT_FALSE(ParseOrigin(v1::PAGE_ORIGIN_UNSPECIFIED).ok());
  EXPECT_EQ(*ParseOrigin(ToProto(PageOrigin::kDecoded)), PageOrigin::kDecoded);
  EXPECT_EQ(*ParseOrigin(ToProto(PageOrigin::kExactPrefill)), PageOrigin::kExactPrefill);
  v1::OpenSequenceRequest request;
  request.mutable_history()->Resize(kMaxHistoryTokens + 1, 1);
  EXPECT_EQ(ParseHistory(request).status(),
            absl::InvalidArgumentError("history has 1048577 tokens, limit 1048576"));
}

}  // namespace
}  // namespace tailor
