// Selection on the device against its definition, over a pool's rows: the same tokens, the same rows.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kvstore/page_index.h"
#include "kvstore/select/critical_channels.h"
#include "kvstore/select/select.h"
#include "kvstore/select/top_k.h"
#include "tests/gpu/gpu_test.h"
#include "worker/ops/cuda/device_select.h"
#include "worker/ops/cuda/select_math.h"
#include "worker/ops/quantize_page.h"

namespace tailor {
namespace {

constexpr int32_t kKvHeads = 2, kGroup = 4;

class SelectGpuTest : public GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    if (TestsRunOnCpu()) GTEST_SKIP() << "the CPU backend selects by kvstore/select itself";
    auto module = CudaModule::Open(TestedModule());
    ASSERT_TRUE(module.ok()) << module.status();
    select_ = module->Select(ops_.get());
  }

  // A pool of one sparse layer whose pages are written and sealed; equal keys make ties.
  PoolView MakePool(int32_t head_dim, int32_t pages) {
    const PoolShape shape = {
        .layers = 1, .kv_heads = kKvHeads, .head_dim = head_dim, .sparse_layers = {0}};
    const PoolLayout layout = *PoolLayout::Make(shape, pages);
    const PoolView pool(Pages(layout.bytes()).data(), layout);
    pages_.resize(pages);
    for (int32_t p = 0; p < pages; ++p) {
      pages_[p] = PageId{static_cast<uint32_t>((p * 7 + 3) % pages)};  // not in order
    }
    for (int32_t p = 0; p < pages; ++p) {
      for (int32_t head = 0; head < kKvHeads; ++head) {
        std::vector<BFloat16> rows = RandomRows(kPageTokens, head_dim, p % 3 * 10 + head);
        std::copy(rows.begin(), rows.end(), pool.Rows(0, head, PageId{static_cast<uint32_t>(p)}));
      }
      SealPage(pool, PageId{static_cast<uint32_t>(p)});
    }
    return pool;
  }

  DeviceSelect* select_ = nullptr;
  std::vector<PageId> pages_;
};

// The published index of one page: code = round(K / scale), scale = max |K| / 127 of each channel.
struct IndexPage {
  std::vector<int8_t> codes;  // [head_dim][page_tokens]
  std::vector<float> scale;   // [head_dim]

  IndexPage(const PoolView& pool, int32_t head, PageId page) {
    const int32_t d = pool.shape().head_dim;
    const BFloat16* rows = pool.Rows(0, head, page);
    const float* kmax = pool.Kmax(0, head, page);
    for (int32_t c = 0; c < d; ++c) {
      scale.push_back(kmax[c] / 127.0f);
      for (int32_t t = 0; t < kPageTokens; ++t) {
        const float key = ToFloat(rows[int64_t{2} * t * d + c]);
        codes.push_back(static_cast<int8_t>(scale[c] > 0 ? std::nearbyint(key / scale[c]) : 0));
      }
    }
  }
};

// The device's lists over the pool in mapped memory, and where the answer goes.
struct Call {
  std::vector<const std::byte*> keys;
  std::vector<const float*> scales;
  std::vector<const BFloat16*> rows;
  std::vector<DeviceBuffer> index;  // codes and scales of each head and page
  DeviceBuffer q, kmax, out_tokens, out_rows;
  DeviceSelection selection;

  Call(Backend& ops, const PoolView& pool, std::span<const PageId> pages,
       const RunningKmax& running, const HostMatrix& host_q, const SelectParams& params) {
    const int32_t d = pool.shape().head_dim;
    std::vector<float> host_kmax;
    for (int32_t head = 0; head < kKvHeads; ++head) {
      const std::span<const float> of = running.Of(0, head);
      host_kmax.insert(host_kmax.end(), of.begin(), of.end());
      for (const PageId page : pages) {
        const IndexPage host(pool, head, page);
        keys.push_back(Place(ops, std::as_bytes(std::span(host.codes))));
        scales.push_back(reinterpret_cast<const float*>(
            Place(ops, std::as_bytes(std::span(host.scale)))));
        rows.push_back(pool.Rows(0, head, page));
      }
    }
    q = *ops.Allocate(host_q.cols * 4);
    ops.Upload(std::as_bytes(host_q.row(0)), q.data());
    kmax = *ops.Allocate(static_cast<int64_t>(host_kmax.size() * 4));
    ops.Upload(std::as_bytes(std::span(host_kmax)), kmax.data());
    selection = {.q = q.Matrix<float>(1, host_q.cols),
                 .kv_heads = kKvHeads,
                 .head_dim = d,
                 .channels = params.channels,
                 .top_k = params.top_k,
                 .sink_tokens = params.sink_tokens,
                 .kmax = kmax.As<float>(),
                 .pages = static_cast<int32_t>(pages.size()),
                 .bits = 0,
                 .keys = keys,
                 .key_scales = scales,
                 .row_pages = rows};
    const int64_t count = int64_t{kKvHeads} * selection.Count();
    out_tokens = *ops.Allocate(count * 4);
    out_rows = *ops.Allocate(count * 2 * d * 2);
    selection.tokens = out_tokens.As<int32_t>();
    selection.rows = out_rows.As<BFloat16>();
  }

  const std::byte* Place(Backend& ops, std::span<const std::byte> bytes) {
    index.push_back(*ops.Allocate(static_cast<int64_t>(bytes.size())));
    ops.Upload(bytes, index.back().data());
    return index.back().data();
  }

  Selection Run(Backend& ops, DeviceSelect& select) {
    select.Select(selection);
    Selection got = {.count = selection.Count(), .tokens = {}, .rows = {}};
    got.tokens.resize(int64_t{kKvHeads} * got.count);
    got.rows.resize(int64_t{kKvHeads} * got.count * 2 * selection.head_dim);
    ops.Download(out_tokens.data(), std::as_writable_bytes(std::span(got.tokens)));
    ops.Download(out_rows.data(), std::as_writable_bytes(std::span(got.rows)));
    return got;
  }
};

std::vector<int32_t> BestOf(std::span<const float> scores, int32_t sink, int32_t count) {
  std::vector<float> block_max;
  std::vector<int32_t> survivors, tokens;
  TopK(scores.subspan(sink), count, block_max, survivors, &tokens);
  for (int32_t& token : tokens) token += sink;
  return tokens;
}

// The published rule (ALGORITHM §3.3-3.4) over that index: mean query, one product and one sum a
// channel in order, ties to the lower token.
Selection SelectFromIndex(const PoolView& pool, std::span<const PageId> pages,
                          const RunningKmax& running, std::span<const float> q,
                          const SelectParams& params) {
  const int32_t d = pool.shape().head_dim;
  const auto tokens = static_cast<int32_t>(pages.size()) * kPageTokens;
  Selection want;
  want.count = std::min(params.top_k, std::max(0, tokens - params.sink_tokens));
  for (int32_t head = 0; head < kKvHeads; ++head) {
    std::vector<float> q_mean(d), scores;
    std::vector<int32_t> channels;
    GroupMean(q.subspan(int64_t{head} * kGroup * d, kGroup * d), &q_mean);
    CriticalChannels(q_mean, running.Of(0, head), params.channels, &channels);
    for (const PageId page : pages) {
      const IndexPage index(pool, head, page);
      for (int32_t t = 0; t < kPageTokens; ++t) {
        float score = 0;
        for (const int32_t c : channels) {
          score = cuda::AddTerm(score, cuda::MulRounded(q_mean[c], index.scale[c]),
                                index.codes[c * kPageTokens + t]);
        }
        scores.push_back(score);
      }
    }
    for (const int32_t token : BestOf(scores, params.sink_tokens, want.count)) {
      want.tokens.push_back(token);
      const BFloat16* row = pool.Rows(0, head, pages[token / kPageTokens]) +
                            int64_t{token % kPageTokens} * 2 * d;
      want.rows.insert(want.rows.end(), row, row + 2 * d);
    }
  }
  return want;
}

TEST_F(SelectGpuTest, ThePublishedIndexGivesTheTokensAndRowsOfItsDefinition) {
  for (const int32_t head_dim : {64, 128}) {
    for (const int32_t pages : {1, 2, 5, 33}) {
      for (const SelectParams params :
           {SelectParams{8, 128, 8}, SelectParams{12, 5, 0}, SelectParams{head_dim, 896, 8}}) {
        SCOPED_TRACE(absl::StrCat(pages, " pages, top ", params.top_k, ", head_dim ", head_dim));
        GpuTest::SetUp();  // a backend each: the pool before is no longer mapped
        select_ = CudaModule::Open(TestedModule())->Select(ops_.get());
        const PoolView pool = MakePool(head_dim, pages);
        ASSERT_TRUE(ops_->MapHostMemory(pool.bytes()).ok());
        RunningKmax running(pool.shape());
        running.Extend(pool, pages_);
        const HostMatrix q = RandomMatrix(1, int64_t{kKvHeads} * kGroup * head_dim, pages);
        const Selection want = SelectFromIndex(pool, pages_, running, q.row(0), params);
        Call call(*ops_, pool, pages_, running, q, params);
        const Selection got = call.Run(*ops_, *select_);
        EXPECT_EQ(got.tokens, want.tokens);
        EXPECT_EQ(got.rows, want.rows);
        ops_->Synchronize();
      }
    }
  }
}

// One head's choice from sketches, as select_math.h defines its scores.
template <int kBits>
std::vector<int32_t> SelectFromSketch(std::span<const std::vector<std::byte>> sketches,
                                      std::span<const float> q_mean,
                                      std::span<const int32_t> channels, int32_t head_dim,
                                      int32_t sink, int32_t count) {
  std::vector<float> scores;
  const cuda::PageBits at = {kBits, head_dim};
  for (const std::vector<std::byte>& page : sketches) {
    for (int32_t t = 0; t < kPageTokens; ++t) {
      float score = 0;
      for (const int32_t c : channels) {
        uint16_t planes[kBits], params[2];
        std::memcpy(planes, page.data() + at.KeyWord(c, t / 16), sizeof(planes));
        std::memcpy(params, page.data() + at.KeyParam(c, t / 64), sizeof(params));
        score = cuda::AddTerm(
            score, q_mean[c],
            cuda::SketchValue(cuda::FromBf16Bits(params[0]), cuda::FromBf16Bits(params[1]),
                              cuda::CodeAt<kBits>(planes, t % 16)));
      }
      scores.push_back(score);
    }
  }
  return BestOf(scores, sink, count);
}

TEST_F(SelectGpuTest, ASketchIsTheKeysOfAQuantizedPageAndSelectsAsItsArithmeticSays) {
  constexpr int32_t kDim = 128, kPages = 9;
  const SelectParams params = {16, 100, 8};
  const PoolView pool = MakePool(kDim, kPages);
  ASSERT_TRUE(ops_->MapHostMemory(pool.bytes()).ok());
  RunningKmax running(pool.shape());
  running.Extend(pool, pages_);
  const HostMatrix q = RandomMatrix(1, int64_t{kKvHeads} * kGroup * kDim, 1);
  for (const int32_t bits : {2, 4}) {
    const QuantizedPageShape shape = {bits, kDim};
    const int64_t bytes = SketchPageBytes(shape);
    const DeviceBuffer memory = *ops_->Allocate(bytes * kPages * kKvHeads, MemoryKind::kSketch);
    Call call(*ops_, pool, pages_, running, q, params);
    std::vector<int32_t> want;
    for (int32_t head = 0; head < kKvHeads; ++head) {
      std::vector<std::vector<std::byte>> sketches;
      for (int32_t p = 0; p < kPages; ++p) {
        std::byte* sketch = memory.data() + (head * kPages + p) * bytes;
        const BFloat16* rows = pool.Rows(0, head, pages_[p]);
        select_->SketchPage(rows, shape, sketch);
        call.keys[head * kPages + p] = sketch;
        std::vector<std::byte> page(shape.PageBytes()), got(bytes);
        QuantizePageRef(rows, shape, page.data());
        page.resize(bytes);
        ops_->Download(sketch, got);
        ASSERT_EQ(got, page) << bits << " bits, page " << p;
        sketches.push_back(page);
      }
      std::vector<float> q_mean(kDim);
      std::vector<int32_t> channels;
      GroupMean(q.row(0).subspan(int64_t{head} * kGroup * kDim, kGroup * kDim), &q_mean);
      CriticalChannels(q_mean, running.Of(0, head), params.channels, &channels);
      const auto select = bits == 2 ? SelectFromSketch<2> : SelectFromSketch<4>;
      const auto tokens =
          select(sketches, q_mean, channels, kDim, params.sink_tokens, params.top_k);
      want.insert(want.end(), tokens.begin(), tokens.end());
    }
    call.selection.bits = bits;
    call.selection.key_scales = {};
    EXPECT_EQ(call.Run(*ops_, *select_).tokens, want) << bits << " bits";
  }
}

}  // namespace
}  // namespace tailor
