// Selectors `sketch` and `device` as a sequence's cache uses them, against `inline` on the same
// pages.
#include <algorithm>
#include <deque>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/gpu/gpu_test.h"
#include "tests/worker/cache/cache_rig.h"
#include "worker/cache/device_fetcher.h"

namespace tailor {
namespace {

struct Fetched {
  int32_t count = 0;
  std::vector<int32_t> tokens;
  std::vector<BFloat16> rows;
  friend bool operator==(const Fetched&, const Fetched&) = default;
};

constexpr SelectParams kParams = {
    .channels = 8, .top_k = 32, .sink_tokens = 8, .group = GroupRule::kHeads, .rescore_extra = 16};

class FetcherGpuTest : public ::testing::Test {
 protected:
  static constexpr int64_t kPages = 4;

  void SetUp() override {
    if (TestsRunOnCpu()) GTEST_SKIP() << "the CPU backend runs these selectors as inline";
    auto backend = MakeTestedBackend();
    if (absl::IsUnavailable(backend.status())) GTEST_SKIP() << backend.status().message();
    ASSERT_TRUE(backend.ok()) << backend.status();
    Use(*std::move(backend));
    for (int64_t pages = 1; pages <= kPages; ++pages) {
      sequences_.push_back(
          *WriteSequence(*rig_.client, rig_.pool, absl::StrCat(pages), pages * kPageTokens, 1));
    }
  }
  void Use(std::unique_ptr<Backend> backend) {
    rig_.ops = std::move(backend);
    ASSERT_TRUE(rig_.ops->MapHostMemory(rig_.pool.bytes()).ok());
  }

  // The first pages of the longest sequence.
  SealedPages Sealed(int64_t pages = kPages) const {
    const WrittenSequence& sequence = sequences_.back();
    return {.pool = &rig_.pool,
            .pages = std::span(sequence.pages).first(pages),
            .sequence = sequence.handle};
  }
  std::unique_ptr<RowFetcher> Make(IndexPlace place, std::vector<int32_t> layer_top_k = {},
                                   int32_t row_cache_rows = 0) {
    return MakeDeviceFetcher(rig_.ops.get(), rig_.pool.shape(), kParams, std::move(layer_top_k),
                             place, row_cache_rows);
  }
  std::unique_ptr<RowFetcher> MakeInline(std::vector<int32_t> layer_top_k = {}) {
    return MakeInlineFetcher(cpu_.get(), rig_.pool.shape(), kParams, std::move(layer_top_k));
  }
  static bool OnDevice(const RowFetcher& fetcher) {
    return fetcher.query_in() == RowFetcher::QueryIn::kDevice;
  }
  absl::Status Post(RowFetcher& fetcher, int32_t layer, const SealedPages& sealed,
                    const HostMatrix& q) {
    if (!OnDevice(fetcher)) return fetcher.Post(layer, sealed, q.row(0));
    queries_.emplace_back(*rig_.ops, q);  // stays until the kernels have read it
    return fetcher.Post(layer, sealed, queries_.back().view().row(0));
  }
  Fetched Take(RowFetcher& fetcher, int32_t layer) {
    const SelectedRows got = *fetcher.Take(layer);
    Fetched fetched = {got.count, std::vector<int32_t>(got.tokens.size()),
                       std::vector<BFloat16>(got.rows.size())};
    if (OnDevice(fetcher)) {
      rig_.ops->Download(got.tokens.data(), std::as_writable_bytes(std::span(fetched.tokens)));
      rig_.ops->Download(got.rows.data(), std::as_writable_bytes(std::span(fetched.rows)));
    } else {
      std::copy(got.tokens.begin(), got.tokens.end(), fetched.tokens.begin());
      std::copy(got.rows.begin(), got.rows.end(), fetched.rows.begin());
    }
    return fetched;
  }
  Fetched PostAndTake(RowFetcher& fetcher, int32_t layer, const SealedPages& sealed,
                      const HostMatrix& q) {
    const absl::Status posted = Post(fetcher, layer, sealed, q);
    EXPECT_TRUE(posted.ok()) << posted;
    return Take(fetcher, layer);
  }

  CacheRig rig_;
  std::unique_ptr<Backend> cpu_ = *MakeCpuBackend({.threads = 1});
  std::vector<WrittenSequence> sequences_;  // of 1, 2, ... kPages pages
  std::deque<DeviceMatrix> queries_;
};

constexpr IndexPlace kPlaces[] = {IndexPlace::kSketch, IndexPlace::kStore};

TEST_F(FetcherGpuTest, TheDeviceFetchesWhatTheWorkersThreadsFetchAsASequenceGrowsAndIsCut) {
  for (const IndexPlace place : kPlaces) {
    const auto ours = Make(place), want = MakeInline();
    for (const int64_t pages : {1, 2, 4, 2, 3}) {
      for (const int32_t layer : {1, 2}) {
        const HostMatrix q = TestQuery(static_cast<uint64_t>(10 * pages + layer));
        EXPECT_EQ(PostAndTake(*ours, layer, Sealed(pages), q),
                  PostAndTake(*want, layer, Sealed(pages), q))
            << "layer " << layer << ", pages " << pages;
      }
      EXPECT_EQ(ours->sketch_bytes(),
                place == IndexPlace::kSketch ? pages * SketchPageBytes(rig_.pool.shape()) : 0);
    }
  }
}

TEST_F(FetcherGpuTest, EachLayerHasItsOwnNumberOfRowsAndADoublingTwiceThat) {
  const auto ours = Make(IndexPlace::kSketch, {128, 5, 17}), want = MakeInline({128, 5, 17});
  for (const int32_t doublings : {0, 1, 5, 12}) {
    ours->SetDoublings(doublings);
    want->SetDoublings(doublings);
    for (const int32_t layer : {1, 2}) {
      EXPECT_EQ(PostAndTake(*ours, layer, Sealed(), TestQuery()),
                PostAndTake(*want, layer, Sealed(), TestQuery()));
    }
  }
}

// query = predicted: a layer's selection is posted while the one before it is still to be taken,
// and while that layer attends.
TEST_F(FetcherGpuTest, TwoLayersPostedTogetherGiveWhatTheyGiveAlone) {
  for (const IndexPlace place : kPlaces) {
    const auto ours = Make(place), want = MakeInline();
    ASSERT_TRUE(Post(*ours, 1, Sealed(), TestQuery(1)).ok());
    ASSERT_TRUE(Post(*ours, 2, Sealed(), TestQuery(2)).ok());
    EXPECT_EQ(Take(*ours, 1), PostAndTake(*want, 1, Sealed(), TestQuery(1)));
    ASSERT_TRUE(Post(*ours, 1, Sealed(), TestQuery(3)).ok());
    EXPECT_EQ(Take(*ours, 2), PostAndTake(*want, 2, Sealed(), TestQuery(2)));
    EXPECT_EQ(Take(*ours, 1), PostAndTake(*want, 1, Sealed(), TestQuery(3)));
  }
}

// Queries that move slowly, as a model's do, over few and many slots.
TEST_F(FetcherGpuTest, ARowCacheChangesNoAnswerAndCountsWhatItHad) {
  for (const int32_t slots : {4, 16, 64, 256}) {
    const auto ours = Make(IndexPlace::kSketch, {}, slots), want = MakeInline();
    EXPECT_EQ(ours->row_cache_bytes(), 0);
    int64_t had = 0;
    for (int step = 0; step < 12; ++step) {
      const int64_t pages = step < 4 ? 3 : step == 8 ? 2 : kPages;  // grows, and is cut once
      HostMatrix q = TestQuery(1);
      const HostMatrix other = TestQuery(100 + step);
      for (int64_t i = 0; i < q.cols; ++i) q.values[i] += 0.3f * other.values[i];
      for (const int32_t layer : {1, 2}) {
        ASSERT_EQ(PostAndTake(*ours, layer, Sealed(pages), q),
                  PostAndTake(*want, layer, Sealed(pages), q))
            << "step " << step << ", slots " << slots;
      }
      ASSERT_TRUE(ours->Settle().ok());
      const int64_t now = ours->cached_rows() - had, rows = 2 * kHeads * kParams.top_k;
      EXPECT_LE(now, std::min<int64_t>(rows, 2 * kHeads * slots));
      if (step == 0 || step == 8) {
        EXPECT_EQ(now, 0) << "nothing is kept yet";
      } else if (slots == 256 && step > 1 && step != 9) {
        EXPECT_GT(now, rows / 2);
      }
      had = ours->cached_rows();
    }
    EXPECT_EQ(ours->row_cache_bytes(), RowCacheBytes(rig_.pool.shape(), slots));
  }
}

// Rows that came from the store before are not read again: what is written over them has no effect.
TEST_F(FetcherGpuTest, ARowInTheCacheIsNotFetchedAgain) {
  const auto ours = Make(IndexPlace::kSketch, {}, 512);
  const Fetched before = PostAndTake(*ours, 1, Sealed(), TestQuery());
  const int32_t token = before.tokens[0];
  rig_.pool
      .Rows(1, 0, sequences_.back().pages[token / kPageTokens])[token % kPageTokens * kRowElements]
      .bits ^= 1;
  EXPECT_EQ(PostAndTake(*ours, 1, Sealed(), TestQuery()), before);
  EXPECT_TRUE(ours->Settle().ok());
  EXPECT_EQ(ours->cached_rows(), kHeads * kParams.top_k);
}

// The promise that no wrong row is served holds without a wait: the token is not committed.
TEST_F(FetcherGpuTest, ARowThatFailsItsCheckIsDataLossOnceTheStepIsSettled) {
  rig_.pool.Rows(1, 1, sequences_.back().pages[2])[17 * kRowElements].bits ^= 1;
  const auto fetcher = Make(IndexPlace::kSketch);
  fetcher->SetDoublings(12);  // every candidate
  ASSERT_TRUE(fetcher->Settle().ok()) << "nothing was fetched yet";
  (void)PostAndTake(*fetcher, 2, Sealed(), TestQuery());
  EXPECT_TRUE(fetcher->Settle().ok()) << "another layer";
  (void)PostAndTake(*fetcher, 1, Sealed(), TestQuery());
  (void)PostAndTake(*fetcher, 2, Sealed(), TestQuery());
  const absl::Status status = fetcher->Settle();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(status.message(), "row check of layer 1 head 1 token 273");
  (void)PostAndTake(*fetcher, 1, Sealed(2), TestQuery());
  EXPECT_TRUE(fetcher->Settle().ok()) << "other rows still are served";
}

TEST_F(FetcherGpuTest, AStepThatFetchedABadRowIsNotCommitted) {
  rig_.policy.selector = Selector::kSketch;
  rig_.policy.select.top_k = kMaxTopK;
  rig_.policy.row_cache_rows = 0;  // every step fetches them
  const auto cache = *rig_.Open("s", CacheMode::kHybrid);
  DrivenSequence driven(rig_, *cache);
  ASSERT_TRUE(driven.PrefillTo(300).ok());
  ASSERT_TRUE(cache->Reserve(302).ok());
  ASSERT_TRUE(driven.Decode(TestQuery()).ok());
  cache->StoreRow(2, 0, 99)[5].bits ^= 1;
  EXPECT_EQ(driven.Decode(TestQuery()).status().code(), absl::StatusCode::kDataLoss);
  const auto kept = rig_.client->DetachSequence(cache->handle());
  ASSERT_TRUE(kept.ok()) << kept;
  EXPECT_EQ(rig_.client->OpenSequence({.tenant = "t", .name = "s"}, {})->committed_tokens, 301);
}

TEST_F(FetcherGpuTest, WithoutRoomForASketchNothingIsCoveredByHalves) {
  const auto ours = Make(IndexPlace::kSketch), want = MakeInline();
  ASSERT_TRUE(ours->Extend(Sealed(1)).ok());
  std::vector<DeviceBuffer> fill;
  for (int64_t bytes = kGpuTestMemory; bytes >= 256; bytes /= 2) {
    for (auto piece = rig_.ops->Allocate(bytes); piece.ok(); piece = rig_.ops->Allocate(bytes)) {
      fill.push_back(*std::move(piece));
    }
  }
  EXPECT_EQ(ours->Extend(Sealed(3)).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ours->sketch_bytes(), SketchPageBytes(rig_.pool.shape()));
  fill.clear();
  for (const int64_t pages : {1, 3}) {
    EXPECT_EQ(PostAndTake(*ours, 1, Sealed(pages), TestQuery()),
              PostAndTake(*want, 1, Sealed(pages), TestQuery()));
  }
}

TEST_F(FetcherGpuTest, TheQuoteCountsTheSketchAsPrefillDecodeAndAttachMakeIt) {
  rig_.policy.selector = Selector::kSketch;
  const auto expect_quoted = [&](const SequenceCache& cache) {
    const LayerBytes quote =
        SequenceCache::Quote(rig_.policy, rig_.pool.shape(), CacheMode::kHybrid, cache.tokens());
    EXPECT_EQ(cache.totals().worker.sketch, quote.sketch) << cache.tokens();
    EXPECT_EQ(cache.totals().worker.row_cache, quote.row_cache) << cache.tokens();
  };
  {
    const auto cache = *rig_.Open("s", CacheMode::kHybrid);
    DrivenSequence driven(rig_, *cache);
    for (const int64_t tokens : {100, 255, 256, 300, 383}) {
      ASSERT_TRUE(driven.PrefillTo(tokens).ok());
      expect_quoted(*cache);
    }
    ASSERT_TRUE(cache->Reserve(386).ok());
    for (int step = 0; step < 3; ++step) {
      ASSERT_TRUE(driven.Decode(TestQuery()).ok());
      expect_quoted(*cache);
    }
    EXPECT_EQ(cache->totals().worker.sketch, 2 * SketchPageBytes(rig_.pool.shape()));
    ASSERT_TRUE(rig_.client->DetachSequence(cache->handle()).ok());
  }
  const auto back = *rig_.Open("s", CacheMode::kHybrid, KnownTokens(1, 386));
  ASSERT_EQ(back->tokens(), 386);
  expect_quoted(*back);
}

}  // namespace
}  // namespace tailor
