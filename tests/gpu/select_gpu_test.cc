// Selection on the device against kvstore/select on the same pages: the same tokens, the same rows.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kvstore/page_index.h"
#include "kvstore/select/select.h"
#include "tests/gpu/gpu_test.h"
#include "worker/ops/cuda/device_select.h"

namespace tailor {
namespace {

struct Heads {
  int32_t kv_heads, group, head_dim;
};

// Keys that a test chooses.
using KeyFn =
    std::function<float(std::mt19937_64& random, int32_t head, int32_t token, int32_t channel)>;

float NormalKey(std::mt19937_64& random, int32_t, int32_t, int32_t) {
  std::normal_distribution<float> normal;
  return normal(random);
}
// Whole pages alike, few values: ties everywhere.
float TiedKey(std::mt19937_64&, int32_t head, int32_t token, int32_t channel) {
  return static_cast<float>((token % 5 * 3 + channel * (head + 1)) % 4) - 1.0f;
}
float ZeroKey(std::mt19937_64&, int32_t, int32_t, int32_t) { return 0.0f; }
// Bits of every kind: NaN, infinities, the largest and smallest numbers.
float AnyKey(std::mt19937_64& random, int32_t, int32_t, int32_t) {
  return random() % 8 == 0 ? std::bit_cast<float>(static_cast<uint32_t>(random()))
                           : static_cast<float>(random() % 100) / 50.0f - 1.0f;
}

class SelectGpuTest : public GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    if (TestsRunOnCpu()) GTEST_SKIP() << "the CPU backend selects by kvstore/select itself";
    ASSERT_NE(ops_->device_select(), nullptr);
  }

  // A pool of three layers, 0 dense, whose pages are written, sealed and mapped; a backend of its
  // own, because the pool before is no longer mapped.
  void MakePool(const Heads& heads, int32_t pages, const KeyFn& key, uint64_t seed) {
    GpuTest::SetUp();
    const PoolShape shape = {.layers = 3,
                             .kv_heads = heads.kv_heads,
                             .head_dim = heads.head_dim,
                             .sparse_layers = {1, 2}};
    const PoolLayout layout = *PoolLayout::Make(shape, pages + 2);
    pool_ = PoolView(Pages(layout.bytes()).data(), layout);
    ASSERT_TRUE(ops_->MapHostMemory(pool_.bytes()).ok());
    std::mt19937_64 random(seed);
    pages_.clear();
    for (int32_t p = 0; p < pages; ++p) {
      pages_.push_back(
          PageId{static_cast<uint32_t>(pages - p)});  // not in order, a gap at either end
      for (int32_t layer = 0; layer < 3; ++layer) {
        for (int32_t head = 0; head < heads.kv_heads; ++head) {
          BFloat16* rows = pool_.Rows(layer, head, pages_[p]);
          for (int32_t i = 0; i < kPageTokens * 2 * heads.head_dim; ++i) {
            const int32_t t = i / (2 * heads.head_dim), c = i % (2 * heads.head_dim);
            rows[i] = ToBFloat16(c < heads.head_dim ? key(random, head, p * kPageTokens + t, c)
                                                    : static_cast<float>(p * kPageTokens + t));
          }
        }
      }
      SealPage(pool_, pages_[p]);
    }
  }

  Selection Want(int32_t layer, std::span<const float> q, const SelectParams& params) {
    RunningKmax kmax(pool_.shape());
    kmax.Extend(pool_, pages_);
    const SelectInput input = {.pool = &pool_,
                               .layer = layer,
                               .sealed_pages = pages_,
                               .kmax = &kmax,
                               .q = q,
                               .params = params};
    SelectScratch scratch;
    Selection want;
    Select(input, scratch, &want);
    EXPECT_TRUE(Gather(input, &want).ok());
    return want;
  }

  // Of the index where it lies in the pool, or of a sketch of it.
  enum class IndexIn { kPool, kSketch };
  Selection Got(int32_t layer, std::span<const float> q, const SelectParams& params, IndexIn from) {
    const PoolShape& shape = pool_.shape();
    const auto kv_heads = shape.kv_heads, d = shape.head_dim, slices = 2 * kv_heads;
    IndexStrides strides = {.codes = pool_.layout().pages() * d * kIndexCodeBytes,
                            .params = pool_.layout().pages() * d,
                            .rows = pool_.layout().pages() * kPageTokens * 2 * d,
                            .checks = pool_.layout().pages() * kPageTokens};
    std::vector<IndexPage> pages;
    for (const PageId page : pages_) {
      pages.push_back(
          {pool_.Index(0, 0, page), pool_.IndexScale(0, 0, page), pool_.IndexMin(0, 0, page),
           reinterpret_cast<const uint16_t*>(pool_.Rows(0, 0, page)), pool_.RowChecks(0, 0, page)});
    }
    const DeviceBuffer sketches = *ops_->Allocate(
        SketchBytes(slices, d) * static_cast<int64_t>(pages.size()), MemoryKind::kSketch);
    if (from == IndexIn::kSketch) {
      std::vector<std::byte*> to;
      for (size_t p = 0; p < pages.size(); ++p) {
        to.push_back(sketches.data() + SketchBytes(slices, d) * static_cast<int64_t>(p));
      }
      ops_->device_select()->CopyIndex(pages, strides, slices, d, to);
      for (size_t p = 0; p < pages.size(); ++p) {
        pages[p] = SketchPage(pages[p], to[p], slices, d);
      }
      strides.codes = int64_t{d} * kIndexCodeBytes;
      strides.params = d;
    }
    const DeviceBuffer table =
        *ops_->Allocate(static_cast<int64_t>(pages.size() * sizeof(IndexPage)));
    ops_->Upload(std::as_bytes(std::span(pages)), table.data());
    const DeviceBuffer device_q = *ops_->Allocate(static_cast<int64_t>(q.size_bytes()));
    ops_->Upload(std::as_bytes(q), device_q.data());
    RunningKmax running(shape);
    running.Extend(pool_, pages_);
    const int32_t rank = layer - 1;
    const std::span<const float> kmax(running.Of(rank, 0).data(), kv_heads * d);
    DeviceSelection selection = {
        .q = device_q.Matrix<float>(1, static_cast<int64_t>(q.size())),
        .kv_heads = kv_heads,
        .head_dim = d,
        .rule = params.group == GroupRule::kMean ? ScoreRule::kMeanQuery : ScoreRule::kHeadsVote,
        .channels = params.channels,
        .top_k = params.top_k,
        .sink_tokens = params.sink_tokens,
        .rescore_extra = params.rescore_extra,
        .kmax = kmax,
        .pages = table.As<IndexPage>(),
        .page_count = static_cast<int32_t>(pages.size()),
        .strides = strides,
        .index_slice = rank * kv_heads,
        .row_slice = layer * kv_heads};
    Selection got = {.count = selection.Count(), .tokens = {}, .rows = {}};
    got.tokens.resize(int64_t{kv_heads} * got.count);
    got.rows.resize(got.tokens.size() * 2 * d);
    const DeviceBuffer tokens = *ops_->Allocate(static_cast<int64_t>(got.tokens.size() * 4 + 4));
    const DeviceBuffer rows = *ops_->Allocate(static_cast<int64_t>(got.rows.size() * 2 + 2));
    selection.tokens = tokens.As<int32_t>();
    selection.rows = rows.As<BFloat16>();
    const DeviceBuffer device_report = *ops_->Allocate(sizeof(GatherReport));
    selection.report = device_report.As<GatherReport>();
    ops_->device_select()->Select(selection);
    ops_->Download(tokens.data(), std::as_writable_bytes(std::span(got.tokens)));
    ops_->Download(rows.data(), std::as_writable_bytes(std::span(got.rows)));
    GatherReport report;
    ops_->Download(device_report.data(), std::as_writable_bytes(std::span(&report, 1)));
    EXPECT_EQ(report.bad_rows, 0u) << "slice " << report.bad_slice << " token " << report.bad_token;
    return got;
  }

  void ExpectSame(int32_t layer, std::span<const float> q, const SelectParams& params) {
    SCOPED_TRACE(absl::StrCat("layer ", layer, ", ", params.channels, " channels, top ",
                              params.top_k, ", sink ", params.sink_tokens, ", extra ",
                              params.rescore_extra, ", heads ", params.group == GroupRule::kHeads,
                              ", pages ", pages_.size()));
    const Selection want = Want(layer, q, params);
    for (const IndexIn from : {IndexIn::kPool, IndexIn::kSketch}) {
      const Selection got = Got(layer, q, params, from);
      ASSERT_EQ(got.count, want.count);
      EXPECT_EQ(got.tokens, want.tokens) << "from the sketch: " << (from == IndexIn::kSketch);
      EXPECT_EQ(std::memcmp(got.rows.data(), want.rows.data(), want.rows.size() * 2), 0);
    }
  }

  PoolView pool_;
  std::vector<PageId> pages_;
};

constexpr GroupRule kMean = GroupRule::kMean, kHeads = GroupRule::kHeads;

TEST_F(SelectGpuTest, TheTokensAndRowsAreTheCpusForEveryShapeLengthAndRule) {
  uint64_t seed = 1;
  for (const Heads& heads : {Heads{1, 1, 64}, Heads{2, 2, 128}, Heads{3, 3, 64}, Heads{2, 4, 64},
                             Heads{1, 5, 128}, Heads{1, 8, 64}}) {
    for (const int32_t pages : {1, 2, 5}) {
      SCOPED_TRACE(absl::StrCat("seed ", ++seed, ", group ", heads.group, ", d ", heads.head_dim));
      MakePool(heads, pages, NormalKey, seed);
      const HostMatrix q =
          RandomMatrix(1, int64_t{heads.kv_heads} * heads.group * heads.head_dim, seed, 2);
      for (const SelectParams& params :
           {SelectParams{24, 40, 8, kHeads, 64}, SelectParams{8, 128, 0, kHeads, 0},
            SelectParams{8, 60, 8, kMean, 0}, SelectParams{17, 30, 128, kMean, 9},
            SelectParams{heads.head_dim, 20, 8, kHeads, 20}, SelectParams{1, 7, 3, kHeads, 1},
            SelectParams{24, 4096, 8, kHeads, 64}}) {
        ExpectSame(1 + static_cast<int32_t>(seed % 2), q.row(0), params);
      }
    }
  }
}

TEST_F(SelectGpuTest, LongHistoriesAddTheirPagesInTheCpusOrder) {
  MakePool({2, 3, 64}, 150, NormalKey, 5);  // more than FactorKernel takes at once, and a rest
  for (const uint64_t seed : {1, 2}) {
    const HostMatrix q = RandomMatrix(1, 2 * 3 * 64, seed, 3);
    ExpectSame(2, q.row(0), {24, 128, 8, kHeads, 64});
    ExpectSame(1, q.row(0), {8, 128, 8, kMean, 0});
  }
}

TEST_F(SelectGpuTest, TiesGoToTheLowerTokenAsOnTheCpu) {
  for (const KeyFn& key : {KeyFn(TiedKey), KeyFn(ZeroKey)}) {
    MakePool({2, 2, 64}, 4, key, 1);
    HostMatrix q(1, 2 * 2 * 64);
    for (int64_t i = 0; i < q.cols; ++i) q.values[i] = static_cast<float>(i % 3) - 1.0f;
    for (const SelectParams& params :
         {SelectParams{24, 40, 8, kHeads, 64}, SelectParams{8, 100, 0, kMean, 0},
          SelectParams{9, 33, 1, kHeads, 0}}) {
      ExpectSame(1, q.row(0), params);
    }
    std::fill(q.values.begin(), q.values.end(), 0.0f);
    ExpectSame(2, q.row(0), {24, 40, 8, kHeads, 64});
    ExpectSame(2, q.row(0), {24, 40, 8, kMean, 64});
  }
}

// A worker may write any bits, and a query may hold any.
TEST_F(SelectGpuTest, WhatIsNoNumberIsTreatedAsOnTheCpu) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float special[] = {kNan, kInfinity, -kInfinity, 3e38f, 1e-40f, -0.0f, 1e-30f};
  for (const KeyFn& key : {KeyFn(AnyKey), KeyFn(NormalKey)}) {
    MakePool({2, 3, 64}, 3, key, 7);
    for (uint64_t seed = 0; seed < 10; ++seed) {
      SCOPED_TRACE(seed);
      std::mt19937_64 random(seed);
      HostMatrix q = RandomMatrix(1, 2 * 3 * 64, seed, 1);
      for (uint64_t i = 0; i < 3 * seed; ++i) {
        q.values[random() % q.values.size()] = special[random() % std::size(special)];
      }
      if (seed == 9)
        std::fill(q.values.begin(), q.values.end(), 1e-40f);  // weights' unit overflows
      ExpectSame(1, q.row(0), {24, 40, 8, kHeads, 64});
      ExpectSame(2, q.row(0), {7, 40, 0, kMean, 12});
      ExpectSame(2, q.row(0), {25, 40, 8, kHeads, 0});
      ExpectSame(2, q.row(0), {25, 40, 8, kMean, 0});
    }
  }
}

// Tokens whose exact scores are the same sums in another order: roundings alone decide, so every
// sum has to go the CPU's way.
TEST_F(SelectGpuTest, SumsOfTheSameTermsInAnotherOrderAreRoundedAsOnTheCpu) {
  const HostMatrix values = RandomMatrix(kPageTokens, 64, 2);
  for (const int32_t turn : {5, 16, 23}) {
    // Page p is page 0 with its channels turned: the same minima, codes and products, elsewhere.
    MakePool(
        {1, 2, 64}, 6,
        [&](std::mt19937_64&, int32_t, int32_t token, int32_t channel) {
          const int32_t from = (channel + turn * (token / kPageTokens)) % 64;
          return values.row(token % kPageTokens)[from];
        },
        1);
    HostMatrix q(1, 2 * 64);
    for (const float value : {0.7f, 0.3f}) {
      std::fill(q.values.begin(), q.values.end(), value);
      ExpectSame(1, q.row(0), {64, 40, 8, kMean, 0});
      ExpectSame(1, q.row(0), {64, 40, 8, kMean, 100});
      ExpectSame(1, q.row(0), {64, 40, 8, kHeads, 0});
      ExpectSame(1, q.row(0), {64, 40, 8, kHeads, 100});
    }
  }
}

// Two query heads that see each other's scores at mirrored tokens, and a third that sees pairs
// alike: the sums of the two differ by roundings alone, and with them which half of a mirrored
// group is chosen.
TEST_F(SelectGpuTest, NormalisersOfTheSameTermsInAnotherOrderAreRoundedAsOnTheCpu) {
  constexpr int32_t kPages = 70, kTokens = kPages * kPageTokens;
  for (uint64_t seed = 0; seed < 6; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    std::vector<int32_t> mirror;  // neighbours here mirror each other
    for (int32_t t = 0; t < kTokens; ++t) {
      if (t % kPageTokens >= 2) mirror.push_back(t);
    }
    std::shuffle(mirror.begin(), mirror.end(), random);
    std::vector<float> value(kTokens), mirrored(kTokens);
    for (float& v : value) v = static_cast<float>(random() % 8) / 7.0f;
    for (size_t i = 0; i < mirror.size(); i += 2) {
      mirrored[mirror[i]] = value[mirror[i + 1]];
      mirrored[mirror[i + 1]] = value[mirror[i]];
    }
    MakePool(
        {1, 3, 64}, kPages,
        [&](std::mt19937_64&, int32_t, int32_t token, int32_t channel) {
          if (channel > 2) return 0.0f;
          if (token % kPageTokens < 2) return static_cast<float>(token % 2);  // equal scales
          return channel == 0   ? value[token]
                 : channel == 1 ? mirrored[token]
                                : (value[token] + mirrored[token]) / 2;
        },
        1);
    HostMatrix q(1, 3 * 64);
    q.values[0] = q.values[64 + 1] = q.values[2 * 64 + 2] = 30.0f;
    for (const int32_t top_k : {500, 1300, 2400, 3700}) {
      ExpectSame(1, q.row(0), {3, top_k, 8, kHeads, 0});
    }
  }
}

TEST_F(SelectGpuTest, ASinkThatFillsTheSealedPagesLeavesNothingToSelect) {
  MakePool({1, 1, 64}, 1, NormalKey, 3);
  const HostMatrix q = RandomMatrix(1, 64, 1);
  ExpectSame(1, q.row(0), {8, 32, 128, kHeads, 64});
}

}  // namespace
}  // namespace tailor
