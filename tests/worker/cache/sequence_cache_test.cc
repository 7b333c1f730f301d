#include "worker/cache/sequence_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/worker/cache/cache_rig.h"
#include "worker/ops/quantize_page.h"

namespace tailor {
namespace {

constexpr int64_t kLongest = 700;

struct Window {
  int32_t residual, recent, sink;
};
LayerPolicy PolicyWith(const Window& window, std::vector<int32_t> quantized = {0}) {
  LayerPolicy policy = TestPolicy();
  policy.residual_tokens = window.residual;
  policy.recent_tokens = window.recent;
  policy.sink_tokens = policy.select.sink_tokens = window.sink;
  policy.quantized_layers = std::move(quantized);
  return policy;
}
LayerPolicy WithTail(LayerPolicy policy) {
  policy.tail = Tail::kPageMeans;
  return policy;
}
constexpr Window kWindows[] = {{128, 56, 8}, {1, 1, 0}, {130, 300, 128}, {256, 64, 1}};

int64_t SealedAt(const LayerPolicy& policy, int64_t tokens) {
  return std::max<int64_t>(0, tokens - policy.WindowTokens()) / kPageTokens;
}

int64_t Total(const LayerBytes& bytes) { return bytes.codes + bytes.resident; }

// Selects nothing: a sparse layer then attends to sink and window alone.
class NothingFetched final : public RowFetcher {
 public:
  absl::Status Post(int32_t, const SealedPages&, std::span<const float>) override {
    return absl::OkStatus();
  }
  absl::StatusOr<SelectedRows> Take(int32_t) override { return SelectedRows{}; }
};

void ExpectQuoted(const CacheRig& rig, const SequenceCache& cache, CacheMode mode) {
  const LayerBytes quote = SequenceCache::Quote(rig.policy, rig.pool.shape(), mode, cache.tokens());
  const LayerBytes held = cache.totals().worker;
  ASSERT_EQ(held.codes, quote.codes) << cache.tokens();
  ASSERT_EQ(held.resident, quote.resident) << cache.tokens();
  ASSERT_EQ(rig.ops->allocated_bytes(), Total(quote)) << cache.tokens();
}

TEST(SequenceCacheTest, TheQuoteIsWhatDecodingAllocatesAtEveryLength) {
  for (const CacheMode mode : {CacheMode::kHybrid, CacheMode::kFull}) {
    for (const Window& window : kWindows) {
      SCOPED_TRACE(absl::StrCat("recent ", window.recent, ", full ", mode == CacheMode::kFull));
      CacheRig rig(WithTail(PolicyWith(window)));
      {
        const auto cache = *rig.Open("s", mode);
        DrivenSequence driven(rig, *cache);
        for (int64_t tokens = 1; tokens <= kLongest; ++tokens) {
          ASSERT_TRUE(cache->Reserve(tokens).ok());
          ASSERT_TRUE(driven.Decode(TestQuery()).ok());
          ExpectQuoted(rig, *cache, mode);
        }
      }
      EXPECT_EQ(rig.ops->allocated_bytes(), 0);
    }
  }
}

TEST(SequenceCacheTest, TheQuoteIsWhatPrefillAllocatesAtEveryLength) {
  for (const CacheMode mode : {CacheMode::kHybrid, CacheMode::kFull}) {
    for (const auto& quantized : {std::vector<int32_t>{0}, {}, {0, 2}, {0, 1, 2}}) {
      CacheRig rig(WithTail(PolicyWith(kWindows[0], quantized)));
      const auto grown = *rig.Open("grown", mode);
      DrivenSequence driven(rig, *grown);
      for (int64_t tokens = 1; tokens <= kLongest; tokens += tokens % 3 + 1) {
        ASSERT_TRUE(driven.PrefillTo(tokens).ok());
        ExpectQuoted(rig, *grown, mode);
      }
    }
  }
}

TEST(SequenceCacheTest, TheQuoteIsWhatAttachingAllocates) {
  for (const int64_t tokens : {1, 128, 255, 256, 257, 384, 700}) {
    CacheRig rig(WithTail(TestPolicy()));
    {
      const auto cache = *rig.Open("s", CacheMode::kHybrid);
      ASSERT_TRUE(DrivenSequence(rig, *cache).PrefillTo(tokens).ok());
      ASSERT_TRUE(rig.client->DetachSequence(cache->handle()).ok());
    }
    for (const CacheMode mode : {CacheMode::kHybrid, CacheMode::kFull}) {
      const auto back = *rig.Open("s", mode, KnownTokens(1, tokens));
      ASSERT_EQ(back->tokens(), tokens);
      ExpectQuoted(rig, *back, mode);
      ASSERT_TRUE(rig.client->DetachSequence(back->handle()).ok());
    }
  }
}

// No token is missing and none is attended twice: what a sparse layer holds by itself is the sink
// and everything after the last sealed page, the newest token included.
TEST(SequenceCacheTest, SinkAndWindowAreHeldExactlyAtEveryLength) {
  for (const Window& window : kWindows) {
    CacheRig rig(PolicyWith(window));
    const auto cache = *rig.Open("s", CacheMode::kHybrid);
    cache->set_fetcher(std::make_unique<NothingFetched>());
    DrivenSequence driven(rig, *cache);
    ASSERT_TRUE(cache->Reserve(kLongest).ok());
    for (int64_t tokens = 1; tokens <= kLongest; ++tokens) {
      const int64_t sealed = SealedAt(rig.policy, tokens - 1);  // when this step attends
      const auto outs = driven.Decode(TestQuery());
      ASSERT_TRUE(outs.ok()) << outs.status();
      if (tokens % kPageTokens > 4 && tokens % kPageTokens < 124 && tokens % 16 != 0) continue;
      SCOPED_TRACE(absl::StrCat(tokens, " tokens, recent ", window.recent));
      std::vector<int64_t> held = Positions(0, sealed > 0 ? window.sink : 0);
      const auto newest = Positions(sealed * kPageTokens, tokens);
      held.insert(held.end(), newest.begin(), newest.end());
      for (const int32_t layer : {1, 2}) {
        ExpectAttended((*outs)[layer], AttendReference(TestQuery(), layer, held));
      }
    }
  }
}

// Prefilled in pieces, decoded, attached again: the mean rows are those of the sealed pages each
// time.
TEST(SequenceCacheTest, TheTailIsTheSameHoweverTheSequenceCameAbout) {
  constexpr int64_t kTokens = 700;
  const auto decode_last = [](CacheRig& rig, SequenceCache& cache) {
    EXPECT_TRUE(cache.Reserve(kTokens + 1).ok());
    return (*DrivenSequence(rig, cache).Decode(TestQuery()))[2];
  };
  CacheRig rig(WithTail(TestPolicy()));
  const auto whole = *rig.Open("whole", CacheMode::kHybrid);
  ASSERT_TRUE(DrivenSequence(rig, *whole).PrefillTo(kTokens).ok());
  const HostMatrix want = decode_last(rig, *whole);

  CacheRig without(TestPolicy());
  const auto other = *without.Open("whole", CacheMode::kHybrid);
  ASSERT_TRUE(DrivenSequence(without, *other).PrefillTo(kTokens).ok());
  EXPECT_NE(decode_last(without, *other).values, want.values) << "the tail counts";

  for (const int64_t prefilled : {0, 100, 300, 699}) {
    const auto name = absl::StrCat("s", prefilled);
    auto cache = *rig.Open(name, CacheMode::kHybrid);
    DrivenSequence driven(rig, *cache);
    ASSERT_TRUE(driven.PrefillTo(prefilled / 2).ok());
    ASSERT_TRUE(driven.PrefillTo(prefilled).ok());
    ASSERT_TRUE(cache->Reserve(kTokens).ok());
    while (cache->tokens() < kTokens) ASSERT_TRUE(driven.Decode(TestQuery()).ok());
    ASSERT_TRUE(rig.client->DetachSequence(cache->handle()).ok());
    cache = *rig.Open(name, CacheMode::kHybrid, KnownTokens(1, kTokens));
    EXPECT_EQ(decode_last(rig, *cache).values, want.values) << prefilled << " prefilled";
  }
}

TEST(SequenceCacheTest, FetchingEveryCandidateIsFullAttentionToFloatRounding) {
  LayerPolicy policy = TestPolicy();
  policy.select.top_k = kMaxTopK;
  for (const Selector selector :
       {Selector::kInline, Selector::kStore, Selector::kSketch, Selector::kDevice}) {
    policy.selector = selector;
    CacheRig rig(policy);
    const auto hybrid = *rig.Open("h", CacheMode::kHybrid), full = *rig.Open("f", CacheMode::kFull);
    DrivenSequence drives_hybrid(rig, *hybrid), drives_full(rig, *full);
    for (const int64_t tokens : {1, 50, 127, 128, 183, 255, 256, 257, 384, 640}) {
      SCOPED_TRACE(tokens);
      ASSERT_TRUE(drives_hybrid.PrefillTo(tokens - 1).ok());
      ASSERT_TRUE(drives_full.PrefillTo(tokens - 1).ok());
      ASSERT_TRUE(hybrid->Reserve(tokens).ok());
      ASSERT_TRUE(full->Reserve(tokens).ok());
      const auto got = *drives_hybrid.Decode(TestQuery()), want = *drives_full.Decode(TestQuery());
      for (const int32_t layer : {1, 2}) {
        const Attended exact = AttendReference(TestQuery(), layer, Positions(0, tokens));
        ExpectAttended(got[layer], exact);
        ExpectAttended(want[layer], exact);
      }
    }
  }
}

TEST(SequenceCacheTest, APageIsSealedOnceAllItsTokensLeftTheWindowAndNotBefore) {
  for (const Window& window : kWindows) {
    CacheRig rig(PolicyWith(window));
    const auto cache = *rig.Open("s", CacheMode::kHybrid);
    DrivenSequence driven(rig, *cache);
    for (int64_t tokens = 1; tokens <= kLongest; ++tokens) {
      ASSERT_TRUE(cache->Reserve(tokens).ok());
      ASSERT_TRUE(driven.Decode(TestQuery()).ok());
      const int64_t sealed = rig.client->Stats()->pages_sealed;
      ASSERT_GE(tokens - sealed * kPageTokens, sealed > 0 ? rig.policy.WindowTokens() : 0);
      ASSERT_LT(tokens - (sealed + 1) * kPageTokens, rig.policy.WindowTokens()) << "one is due";
    }
  }
}

// The codes' bytes tell how many tokens are quantized.
TEST(SequenceCacheTest, TheNewestResidualTokensAreNeverQuantized) {
  for (const Window& window : kWindows) {
    CacheRig rig(PolicyWith(window));
    const QuantizedPageShape shape = {.bits = rig.policy.bits, .head_dim = kHeadDim};
    const auto cache = *rig.Open("s", CacheMode::kHybrid);
    DrivenSequence driven(rig, *cache);
    for (int64_t tokens = 1; tokens <= kLongest; ++tokens) {
      ASSERT_TRUE(cache->Reserve(tokens).ok());
      ASSERT_TRUE(driven.Decode(TestQuery()).ok());
      const int64_t pages = cache->totals().worker.codes / (kHeads * shape.PageBytes());
      if (pages > 0) {
        ASSERT_GE(tokens - pages * kPageTokens, window.residual) << tokens;
      }
    }
    EXPECT_GT(cache->totals().worker.codes, 0);
  }
}

TEST(SequenceCacheTest, APrefilledAndAnAttachedSequenceContinueLikeADecodedOneBitForBit) {
  for (const int64_t tokens : {100, 256, 300, 600}) {
    CacheRig rig;
    const auto decoded = *rig.Open("d", CacheMode::kHybrid);
    const auto prefilled = *rig.Open("p", CacheMode::kHybrid);
    DrivenSequence drives_decoded(rig, *decoded), drives_prefilled(rig, *prefilled);
    ASSERT_TRUE(decoded->Reserve(tokens + 1).ok());
    for (int64_t t = 0; t < tokens; ++t) ASSERT_TRUE(drives_decoded.Decode(TestQuery(t)).ok());
    ASSERT_TRUE(drives_prefilled.PrefillTo(tokens / 2).ok());
    ASSERT_TRUE(drives_prefilled.PrefillTo(tokens).ok());
    ASSERT_TRUE(prefilled->Reserve(tokens + 1).ok());
    const SequenceGrant fork = *rig.client->ForkSequence(prefilled->handle(), {"t", "fork"});
    const auto attached = *SequenceCache::Make(rig.ops.get(), rig.client.get(), &rig.pool,
                                               rig.policy, CacheMode::kHybrid, fork);
    ASSERT_TRUE(attached->Reserve(tokens + 1).ok());
    const auto want = *drives_decoded.Decode(TestQuery());
    const auto got = *drives_prefilled.Decode(TestQuery());
    const auto again = *DrivenSequence(rig, *attached).Decode(TestQuery());
    for (int32_t layer = 0; layer < 3; ++layer) {
      EXPECT_EQ(got[layer].values, want[layer].values) << tokens << ", layer " << layer;
      EXPECT_EQ(again[layer].values, want[layer].values) << tokens << ", layer " << layer;
    }
  }
}

TEST(SequenceCacheTest, OnlyPagesOfExactPrefillAreSharedWithOtherSequences) {
  CacheRig rig;
  const auto cache = *rig.Open("s", CacheMode::kHybrid);
  DrivenSequence driven(rig, *cache);
  ASSERT_TRUE(driven.PrefillTo(300).ok());
  ASSERT_TRUE(cache->Reserve(kLongest).ok());
  while (cache->tokens() < kLongest) ASSERT_TRUE(driven.Decode(TestQuery()).ok());
  ASSERT_GT(rig.client->Stats()->pages_sealed, 3);
  const auto other = *rig.Open("other", CacheMode::kHybrid, KnownTokens(1, kLongest));
  EXPECT_EQ(other->tokens(), 2 * kPageTokens) << "of 300 exact tokens, whole pages";
}

TEST(SequenceCacheTest, ASealedPageThatFailsItsChecksIsDataLossOnAttach) {
  CacheRig rig;
  PageId page;
  {
    const auto cache = *rig.Open("s", CacheMode::kHybrid);
    ASSERT_TRUE(DrivenSequence(rig, *cache).PrefillTo(300).ok());
    ASSERT_TRUE(rig.client->DetachSequence(cache->handle()).ok());
    const SequenceGrant grant = *rig.client->OpenSequence({"t", "s"}, KnownTokens(1, 300));
    page = grant.pages[0];
    ASSERT_TRUE(rig.client->DetachSequence(grant.handle).ok());
  }
  rig.pool.Rows(0, 0, page)[5].bits ^= 1;
  EXPECT_EQ(rig.Open("s", CacheMode::kHybrid, KnownTokens(1, 300)).status().code(),
            absl::StatusCode::kDataLoss);
  EXPECT_EQ(rig.ops->allocated_bytes(), 0);
}

TEST(SequenceCacheTest, ASequenceThatFitsItsQuoteFitsAndOneByteLessIsRefused) {
  const PoolShape shape = CacheRig().pool.shape();
  for (const CacheMode mode : {CacheMode::kHybrid, CacheMode::kFull}) {
    const int64_t quote = Total(SequenceCache::Quote(TestPolicy(), shape, mode, 400));
    for (const int64_t limit : {quote, quote - 1}) {
      CacheRig rig(TestPolicy(), limit);
      {
        const auto cache = *rig.Open("s", mode);
        const absl::Status grown = DrivenSequence(rig, *cache).PrefillTo(400);
        EXPECT_EQ(grown.code(),
                  limit == quote ? absl::StatusCode::kOk : absl::StatusCode::kResourceExhausted);
      }
      EXPECT_EQ(rig.ops->allocated_bytes(), 0);
    }
  }
}

}  // namespace
}  // namespace tailor
