#include "worker/cache/quantized_cache.h"

#include <gtest/gtest.h>

#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/worker/cache/cache_rig.h"
#include "worker/ops/quantize_page.h"

namespace tailor {
namespace {

constexpr int64_t kWindowSlots = 2;

class QuantizedCacheTest : public ::testing::Test {
 protected:
  QuantizedCacheTest() {
    const SequenceGrant grant =
        *rig_.client->OpenSequence({.tenant = "t", .name = "s"}, kFirstToken);
    pages_ = *rig_.client->ReservePages(grant.handle, 6);
    for (int64_t t = 0; t < 6 * kPageTokens; ++t) {
      WriteToken(rig_.pool, pages_[t / kPageTokens], t, 0, 1);
    }
  }
  PagedRows Rows(int64_t tokens, int64_t sealed) const {
    return {.pool = &rig_.pool, .pages = pages_, .sealed_pages = sealed, .tokens = tokens};
  }
  QuantizedCache MakeCache(int32_t bits) {
    return QuantizedCache(rig_.ops.get(), 0, rig_.pool.shape(), bits, kWindowSlots);
  }
  HostMatrix Attend(QuantizedCache& cache, int64_t tokens) {
    const DeviceMatrix q(*rig_.ops, TestQuery()), out(*rig_.ops, 1, kQHeads * kHeadDim);
    cache.Attend({.q = q.view(), .tokens = tokens, .fetched = {}, .out = out.view(), .lse = {}},
                 scratch_);
    return out.Download();
  }
  // `sealed` pages of dequantized codes, the rest as it was written. bf16 holds no dequantized
  // value, so AttendQuantizedRef decodes the codes itself.
  Attended Reference(int32_t bits, int64_t tokens, int64_t sealed) const {
    const QuantizedPageShape shape = {.bits = bits, .head_dim = kHeadDim};
    std::vector<std::vector<std::byte>> codes;
    std::vector<std::vector<const std::byte*>> pages(kHeads);
    std::vector<std::vector<BFloat16>> rows, all;
    std::vector<RowSegment> segments;
    for (int32_t head = 0; head < kHeads; ++head) {
      for (int64_t p = 0; p < sealed; ++p) {
        const auto page = KnownRows(0, head, Positions(p * kPageTokens, (p + 1) * kPageTokens));
        codes.emplace_back(shape.PageBytes());
        QuantizePageRef(page.data(), shape, codes.back().data());
        pages[head].push_back(codes.back().data());
      }
      rows.push_back(KnownRows(0, head, Positions(sealed * kPageTokens, tokens)));
      all.push_back(KnownRows(0, head, Positions(0, tokens)));
    }
    std::vector<std::span<const std::byte* const>> page_spans(pages.begin(), pages.end());
    for (const auto& head : rows) {
      segments.push_back({head.data(), static_cast<int32_t>(head.size() / kRowElements)});
    }
    std::vector<std::span<const RowSegment>> residual;
    for (const RowSegment& segment : segments) residual.emplace_back(&segment, 1);
    HostMatrix q = TestQuery();
    // Codes stay within their group's range, up to a rounding of the scale: so do the norms.
    Attended want = AttendReference(q, all);
    want.tolerance *= 1.1;
    AttendQuantizedRef({.q = q.view(),
                        .shape = shape,
                        .pages = page_spans,
                        .residual = residual,
                        .out = want.out.view()});
    return want;
  }

  CacheRig rig_;
  std::vector<PageId> pages_;
  AttendScratch scratch_;
};

TEST_F(QuantizedCacheTest, SealedPagesAreAttendedAsCodesAndTheRestInFullPrecision) {
  for (const int32_t bits : {1, 2, 4, 8}) {
    QuantizedCache cache = MakeCache(bits);
    for (const auto& [tokens, sealed] :
         {std::pair{1, 0}, {128, 0}, {255, 0}, {256, 1}, {383, 1}, {384, 2}, {700, 4}}) {
      SCOPED_TRACE(absl::StrCat(bits, " bits, ", tokens, " tokens, ", sealed, " sealed"));
      ASSERT_TRUE(cache.Extend(Rows(tokens, sealed)).ok());
      ExpectAttended(Attend(cache, tokens), Reference(bits, tokens, sealed));
      EXPECT_EQ(
          cache.bytes().codes,
          sealed * kHeads * (QuantizedPageShape{.bits = bits, .head_dim = kHeadDim}.PageBytes()));
    }
  }
}

// A layer cache is a function of its rows: page by page or all at once, the same bits.
TEST_F(QuantizedCacheTest, SealingPageByPageEqualsExtendingAtOnceBitForBit) {
  QuantizedCache grown = MakeCache(2), loaded = MakeCache(2);
  ASSERT_TRUE(grown.Extend(Rows(0, 0)).ok());
  for (int64_t t = 0; t < 600; ++t) {
    std::vector<BFloat16*> rows(kHeads);
    grown.NewRows(t, rows);
    for (int32_t head = 0; head < kHeads; ++head) {
      const auto row = KnownRow(0, head, t);
      rig_.ops->Upload(std::as_bytes(std::span(row)), rows[head]);
    }
    if ((t + 1) % kPageTokens == 0 && t >= 2 * kPageTokens - 1) {
      ASSERT_TRUE(grown.Seal(Rows(t + 1, 0), (t + 1) / kPageTokens - 2).ok());
    }
  }
  ASSERT_TRUE(loaded.Extend(Rows(600, 3)).ok());
  EXPECT_EQ(Attend(grown, 600).values, Attend(loaded, 600).values);
  EXPECT_EQ(grown.bytes().codes, loaded.bytes().codes);
}

TEST_F(QuantizedCacheTest, CodesBeyondTheBudgetAreRefusedAndAllMemoryComesBack) {
  const int64_t window = kWindowSlots * ResidentWindow::PageBytes(kHeads, kHeadDim);
  const int64_t page = kHeads * (QuantizedPageShape{.bits = 4, .head_dim = kHeadDim}.PageBytes());
  auto ops = *MakeCpuBackend({.threads = 1, .memory_limit_bytes = window + 2 * page});
  {
    QuantizedCache cache(ops.get(), 0, rig_.pool.shape(), 4, kWindowSlots);
    ASSERT_TRUE(cache.Extend(Rows(500, 2)).ok());
    EXPECT_EQ(ops->allocated_bytes(), window + 2 * page);
    EXPECT_EQ(cache.Extend(Rows(600, 3)).code(), absl::StatusCode::kResourceExhausted);
  }
  EXPECT_EQ(ops->allocated_bytes(), 0);
}

}  // namespace
}  // namespace tailor
