// Attention over rows and over quantized pages on the device, against one softmax in double.
#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/gpu/gpu_test.h"
#include "worker/ops/quantize_page.h"
#include "worker/ops/reference.h"

namespace tailor {
namespace {

class AttentionGpuTest : public GpuTest {};

constexpr int32_t kKvHeads = 2;
constexpr int32_t kGroups[] = {1, 2, 3, 4, 8, 9};

struct Answer {
  HostMatrix out, lse;
};

Answer Attend(Backend& ops, const SegmentedRows& rows, const HostMatrix& q, int32_t head_dim,
              Mask mask) {
  const DeviceMatrix device_q(ops, q), out(ops, q.rows, q.cols),
      lse(ops, q.rows, q.cols / head_dim);
  ops.Attend({.q = device_q.view(),
              .segments = rows.device(),
              .head_dim = head_dim,
              .mask = mask,
              .out = out.view(),
              .lse = lse.view()});
  return {out.Download(), lse.Download()};
}

// The largest |q| |k| / sqrt(d), which errors of a score are shares of.
double LargestScore(const HostMatrix& q, std::span<const std::vector<float>> heads, int32_t d) {
  double max_q = 0, max_k = 0;
  for (int64_t r = 0; r < q.rows; ++r) {
    for (int64_t c = 0; c < q.cols; c += d) max_q = std::max(max_q, Norm(q.row(r).subspan(c, d)));
  }
  for (const std::vector<float>& rows : heads) {
    for (size_t t = 0; t < rows.size(); t += 2 * d) {
      max_k = std::max(max_k, Norm(std::span(rows).subspan(t, d)));
    }
  }
  return max_q * max_k / std::sqrt(static_cast<double>(d));
}

DeviceAttentionTolerance DeviceTolerance(const HostMatrix& q,
                                         std::span<const std::vector<float>> heads, int32_t d) {
  const auto tokens = static_cast<int64_t>(heads[0].size()) / (2 * d);
  return {ToleranceOf(q, heads, d), LargestScore(q, heads, d), tokens, q.rows > 16};
}

void ExpectAttend(Backend& ops, int64_t tokens, int64_t queries, int32_t group, int32_t head_dim,
                  Mask mask) {
  SCOPED_TRACE(absl::StrCat(tokens, " tokens, ", queries, " queries, group ", group, ", head_dim ",
                            head_dim));
  const SegmentedRows rows(ops, kKvHeads, head_dim, tokens, 150, tokens + queries);
  HostMatrix q = RandomMatrix(queries, int64_t{kKvHeads} * group * head_dim, 3);
  HostMatrix out(queries, q.cols), lse(queries, int64_t{kKvHeads} * group);
  AttendRef({.q = q.view(),
             .segments = rows.host(),
             .head_dim = head_dim,
             .mask = mask,
             .out = out.view(),
             .lse = lse.view()});
  std::vector<std::vector<float>> heads;
  for (const auto& head : rows.rows()) heads.push_back(ToFloats(head));
  const DeviceAttentionTolerance tolerance = DeviceTolerance(q, heads, head_dim);
  const Answer got = Attend(ops, rows, q, head_dim, mask);
  ExpectNear(got.out, out, [&](int64_t, int64_t) { return tolerance.out(); });
  ExpectNear(got.lse, lse, [&](int64_t r, int64_t h) { return tolerance.lse(lse.row(r)[h]); });
}

TEST_F(AttentionGpuTest, CausalAttentionIsItsReference) {
  int turn = 0;
  for (const int64_t tokens : {1, 2, 63, 64, 65, 129, 257, 1000}) {
    for (const int64_t queries : {1, 2, 5, 16, 17, 33, 64, 65, 150}) {
      ++turn;
      if (queries > tokens) continue;
      ExpectAttend(*ops_, tokens, queries, kGroups[turn % 4], turn % 2 == 0 ? 128 : 64,
                   Mask::kCausal);
    }
  }
}

TEST_F(AttentionGpuTest, UnmaskedAttentionIsItsReferenceForEveryGroup) {
  for (const int32_t head_dim : {64, 128}) {
    for (const int32_t group : kGroups) {
      ExpectAttend(*ops_, 257, 1, group, head_dim, Mask::kNone);
      ExpectAttend(*ops_, 2000, 3, group, head_dim, Mask::kNone);
      ExpectAttend(*ops_, 130, 70, group, head_dim, Mask::kNone);
    }
  }
}

TEST_F(AttentionGpuTest, MeansStandForTheirTokensInTheOutputAlone) {
  for (const int32_t head_dim : {64, 128}) {
    for (const int64_t tokens : {1, 130, 700}) {
      for (const int64_t means : {1, 54, 300}) {
        const float log_weight = kMeanLogWeights[(tokens + means) % 3];
        SCOPED_TRACE(absl::StrCat(tokens, " tokens, ", means, " means, weight e^", log_weight));
        const MeansCase c(*ops_, tokens, means, kGroups[means % 6], head_dim, log_weight);
        DeviceAttentionTolerance tolerance = DeviceTolerance(c.q, c.heads, head_dim);
        tolerance.weight += c.MoreRounding(log_weight);
        ExpectNear(c.out, c.want_out, [&](int64_t, int64_t) { return tolerance.out(); });
        ExpectNear(c.lse, c.want_lse,
                   [&](int64_t, int64_t h) { return tolerance.lse(c.want_lse.row(0)[h]); });
      }
    }
  }
}

TEST_F(AttentionGpuTest, ScoresFarApartNeitherOverflowNorLoseTheLargest) {
  constexpr int32_t kDim = 64;
  for (const int64_t at : {0, 300, 699}) {
    SegmentedRows rows(*ops_, 1, kDim, 700, 0, 5);
    const HostMatrix q = RandomMatrix(1, kDim, 6, 20);
    std::vector<BFloat16> row(2 * kDim);
    for (int32_t c = 0; c < kDim; ++c) row[c] = ToBFloat16(q.row(0)[c] * 2);
    for (int32_t c = 0; c < kDim; ++c) row[kDim + c] = ToBFloat16(static_cast<float>(c));
    BFloat16* target = const_cast<BFloat16*>(rows.device()[0][0].rows) + at * 2 * kDim;
    ops_->Upload(std::as_bytes(std::span(row)), target);
    const Answer got = Attend(*ops_, rows, q, kDim, Mask::kNone);
    for (int32_t c = 0; c < kDim; ++c) EXPECT_EQ(got.out.row(0)[c], static_cast<float>(c)) << at;
  }
}

// Chunks of a prefill: a query's bits do not depend on its neighbours nor on the cut of the rows.
TEST_F(AttentionGpuTest, AQueryOfAPrefillHasTheSameBitsInEveryChunk) {
  constexpr int32_t kDim = 128;
  constexpr int64_t kTokens = 700, kQueries = 400, kCols = int64_t{kKvHeads} * 2 * kDim;
  const HostMatrix q = RandomMatrix(kQueries, kCols, 7);
  const auto run = [&](int64_t last, int64_t count, int64_t longest) {
    const SegmentedRows rows(*ops_, kKvHeads, kDim, kTokens - (kQueries - 1 - last), longest, 8);
    HostMatrix part(count, kCols);
    std::copy_n(q.row(last + 1 - count).data(), count * kCols, part.values.data());
    return Attend(*ops_, rows, part, kDim, Mask::kCausal);
  };
  const Answer want = run(kQueries - 1, kQueries, 0);
  for (const int64_t last : {399, 200, 77}) {
    const Answer some = run(last, 40, 50);
    for (int64_t i = 0; i < 40; ++i) {
      ASSERT_EQ(some.out.RowBits(i), want.out.RowBits(last - 39 + i)) << last << ", " << i;
    }
  }
}

TEST_F(AttentionGpuTest, RowsInMappedHostMemoryAreReadAndWrittenInPlace) {
  constexpr int32_t kDim = 64;
  const std::vector<BFloat16> rows = RandomRows(300, kDim, 9);
  const std::span<std::byte> bytes = Pages(static_cast<int64_t>(rows.size() * 2));
  const std::span arena(reinterpret_cast<BFloat16*>(bytes.data()), rows.size());
  std::copy(rows.begin(), rows.end(), arena.begin());
  ASSERT_TRUE(ops_->MapHostMemory(bytes).ok());
  const HostMatrix k = RandomMatrix(1, kDim, 10), v = RandomMatrix(1, kDim, 11);
  const DeviceMatrix device_k(*ops_, k), device_v(*ops_, v);
  BFloat16* last = arena.data() + 299 * 2 * kDim;
  ops_->WriteRows(device_k.view(), device_v.view(), std::span(&last, 1), kDim);
  ops_->Synchronize();
  for (int32_t c = 0; c < kDim; ++c) {
    ASSERT_EQ(last[c].bits, ToBFloat16(k.row(0)[c]).bits);
    ASSERT_EQ(last[kDim + c].bits, ToBFloat16(v.row(0)[c]).bits);
  }
  HostMatrix q = RandomMatrix(1, kDim, 12), want(1, kDim);
  const RowSegment segment = {arena.data(), 300};
  const std::span<const RowSegment> head(&segment, 1);
  const RowAttention reference = {.q = q.view(),
                                  .segments = std::span(&head, 1),
                                  .head_dim = kDim,
                                  .mask = Mask::kNone,
                                  .out = want.view(),
                                  .lse = {}};
  AttendRef(reference);
  const DeviceMatrix device_q(*ops_, q), out(*ops_, 1, kDim);
  RowAttention call = reference;
  call.q = device_q.view();
  call.out = out.view();
  ops_->Attend(call);
  const std::vector<std::vector<float>> heads = {ToFloats({arena.begin(), arena.end()})};
  const DeviceAttentionTolerance tolerance = DeviceTolerance(q, heads, kDim);
  ExpectNear(out.Download(), want, [&](int64_t, int64_t) { return tolerance.out(); });
}

// --- quantized pages ---

TEST_F(AttentionGpuTest, PagesAreQuantizedToTheBytesOfTheReference) {
  for (const int32_t bits : {1, 2, 4, 8}) {
    for (const int32_t head_dim : {64, 128}) {
      for (const float scale : {1.0f, 1e-38f, 1e30f}) {
        std::vector<BFloat16> rows = RandomRows(kPageTokens, head_dim, bits, scale);
        for (int32_t t = 0; t < kPageTokens; ++t) rows[t * 2 * head_dim] = ToBFloat16(2.5f);
        const QuantizedPageShape shape = {bits, head_dim};
        std::vector<std::byte> want(shape.PageBytes()), got(shape.PageBytes());
        QuantizePageRef(rows.data(), shape, want.data());
        const DeviceBuffer device_rows = *ops_->Allocate(static_cast<int64_t>(rows.size() * 2));
        const DeviceBuffer page = *ops_->Allocate(shape.PageBytes());
        ops_->Upload(std::as_bytes(std::span(rows)), device_rows.data());
        ops_->Upload(std::vector<std::byte>(shape.PageBytes(), std::byte{0xa5}), page.data());
        ops_->QuantizePage(device_rows.As<BFloat16>(), shape, page.data());
        ops_->Download(page.data(), got);
        EXPECT_EQ(got, want) << bits << " bits, head_dim " << head_dim << ", scale " << scale;
      }
    }
  }
}

struct PageCase {
  std::vector<DeviceBuffer> memory;
  std::vector<std::vector<std::vector<std::byte>>> host;  // [kv_heads][pages]
  std::vector<std::vector<const std::byte*>> host_pages, device_pages;
  std::vector<std::span<const std::byte*const>> host_spans, device_spans;

  PageCase(Backend& ops, const QuantizedPageShape& shape, int64_t pages, uint64_t seed)
      : host(kKvHeads), host_pages(kKvHeads), device_pages(kKvHeads) {
    for (int32_t head = 0; head < kKvHeads; ++head) {
      for (int64_t p = 0; p < pages; ++p) {
        const auto rows = RandomRows(kPageTokens, shape.head_dim, seed + head * 100 + p);
        auto& page = host[head].emplace_back(shape.PageBytes());
        QuantizePageRef(rows.data(), shape, page.data());
        memory.push_back(*ops.Allocate(shape.PageBytes()));
        ops.Upload(page, memory.back().data());
        device_pages[head].push_back(memory.back().data());
      }
      for (const auto& page : host[head]) host_pages[head].push_back(page.data());
    }
    host_spans.assign(host_pages.begin(), host_pages.end());
    device_spans.assign(device_pages.begin(), device_pages.end());
  }
};

void ExpectAttendQuantized(Backend& ops, const QuantizedPageShape& shape, int64_t pages,
                           int64_t residual_tokens, int32_t group) {
  SCOPED_TRACE(absl::StrCat(shape.bits, " bits, ", pages, " pages, ", residual_tokens,
                            " residual tokens, group ", group, ", head_dim ", shape.head_dim));
  const int32_t d = shape.head_dim;
  const PageCase codes(ops, shape, pages, 40 + pages);
  const SegmentedRows residual(ops, kKvHeads, d, residual_tokens, 90, 41);
  HostMatrix q = RandomMatrix(1, int64_t{kKvHeads} * group * d, 42), want(1, q.cols);
  AttendQuantizedRef({.q = q.view(),
                      .shape = shape,
                      .pages = codes.host_spans,
                      .residual = residual.host(),
                      .out = want.view()});
  std::vector<std::vector<float>> heads;
  for (int32_t head = 0; head < kKvHeads; ++head) {
    std::vector<float>& rows = heads.emplace_back();
    for (const auto& page : codes.host[head]) {
      HostMatrix values(kPageTokens, 2 * d);
      DequantizePageRef(page.data(), shape, values.view());
      rows.insert(rows.end(), values.values.begin(), values.values.end());
    }
    const auto last = ToFloats(residual.rows()[head]);
    rows.insert(rows.end(), last.begin(), last.end());
  }
  const DeviceAttentionTolerance tolerance = DeviceTolerance(q, heads, d);
  const DeviceMatrix device_q(ops, q), out(ops, 1, q.cols);
  ops.AttendQuantized({.q = device_q.view(),
                       .shape = shape,
                       .pages = codes.device_spans,
                       .residual = residual.device(),
                       .out = out.view()});
  ExpectNear(out.Download(), want, [&](int64_t, int64_t) { return tolerance.out(); });
}

TEST_F(AttentionGpuTest, QuantizedAttentionIsOneSoftmaxOverDequantizedPagesAndResidual) {
  int turn = 0;
  for (const int32_t bits : {1, 2, 4, 8}) {
    for (const int32_t head_dim : {64, 128}) {
      for (const int64_t pages : {0, 1, 2, 5, 40}) {
        for (const int64_t residual : {0, 1, 200}) {
          if (pages + residual == 0) continue;
          ExpectAttendQuantized(*ops_, {.bits = bits, .head_dim = head_dim}, pages, residual,
                                kGroups[turn++ % 6]);
        }
      }
    }
  }
}

}  // namespace
}  // namespace tailor
