// Attention over rows and over quantized pages, against one softmax in double.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/worker/ops/attention_case.h"
#include "tests/worker/ops/op_test.h"
#include "worker/ops/cpu_kernels.h"
#include "worker/ops/quantize_page.h"
#include "worker/ops/reference.h"

namespace tailor {
namespace {

class AttentionTest : public OpTest {};
INSTANTIATE_AT_EVERY_SIMD_LEVEL(AttentionTest);

constexpr int32_t kKvHeads = 2;
constexpr int64_t kContexts[] = {1, 2, 127, 128, 129, 255, 256, 257, 1000};
constexpr int64_t kQueryCounts[] = {1, 2, 5, 17, 33};
constexpr int32_t kGroups[] = {1, 3, 4, 8};

struct Answer {
  HostMatrix out, lse;
};

Answer Attend(Backend& ops, const SegmentedRows& rows, const HostMatrix& q, int32_t head_dim,
              Mask mask) {
  const int64_t q_heads = q.cols / head_dim;
  const DeviceMatrix device_q(ops, q), out(ops, q.rows, q.cols), lse(ops, q.rows, q_heads);
  ops.Attend({.q = device_q.view(),
              .segments = rows.device(),
              .head_dim = head_dim,
              .mask = mask,
              .out = out.view(),
              .lse = lse.view()});
  return {out.Download(), lse.Download()};
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
  const AttentionTolerance tolerance = ToleranceOf(q, heads, head_dim);
  const Answer got = Attend(ops, rows, q, head_dim, mask);
  ExpectNear(got.out, out, [&](int64_t, int64_t) { return tolerance.out(); });
  ExpectNear(got.lse, lse, [&](int64_t r, int64_t h) { return tolerance.lse(lse.row(r)[h]); });
}

// Every context with every number of queries; groups and head_dim take turns over them.
TEST_P(AttentionTest, CausalAttentionIsItsReference) {
  int turn = 0;
  for (const int64_t tokens : kContexts) {
    for (const int64_t queries : kQueryCounts) {
      ++turn;
      if (queries > tokens) continue;
      ExpectAttend(*ops_, tokens, queries, kGroups[turn % 4], turn % 3 == 0 ? 128 : 64,
                   Mask::kCausal);
    }
  }
}

// Any multiple of 16 is a head size that a pool may hold. A backend each: its scratch must be large
// enough by itself, not because a larger head came before.
TEST_P(AttentionTest, UnmaskedAttentionIsItsReferenceForEveryGroupAndHeadSize) {
  for (const int32_t head_dim : {16, 32, 48, 64, 80, 96, 112, 128}) {
    const auto ops = MakeBackend();
    for (const int32_t group : kGroups) {
      ExpectAttend(*ops, 257, 1, group, head_dim, Mask::kNone);
      ExpectAttend(*ops, 130, 9, group, head_dim, Mask::kNone);
    }
  }
}

TEST_P(AttentionTest, MeansStandForTheirTokensInTheOutputAlone) {
  for (const int64_t tokens : {1, 130, 700}) {
    for (const int64_t means : {1, 54, 300}) {
      for (const float log_weight : kMeanLogWeights) {
        SCOPED_TRACE(absl::StrCat(tokens, " tokens, ", means, " means, weight e^", log_weight));
        const MeansCase c(*ops_, tokens, means, kGroups[means % 4], 64, log_weight);
        AttentionTolerance tolerance = ToleranceOf(c.q, c.heads, 64);
        tolerance.weight += c.MoreRounding(log_weight);
        ExpectNear(c.out, c.want_out, [&](int64_t, int64_t) { return tolerance.out(); });
        ExpectNear(c.lse, c.want_lse,
                   [&](int64_t, int64_t h) { return tolerance.lse(c.want_lse.row(0)[h]); });
      }
    }
  }
}

TEST_P(AttentionTest, ATileHoldsTheChannelsOfItsHeadAndNothingBesideThem) {
  for (const int32_t head_dim : {16, 48, 64, 80}) {
    for (const int32_t tokens : {1, 16, 127, 128}) {
      const auto rows = RandomRows(tokens, head_dim, 9);
      std::vector<const BFloat16*> pointers;
      for (int32_t t = 0; t < tokens; ++t) pointers.push_back(rows.data() + t * 2 * head_dim);
      std::vector<float> keys((head_dim + 32) * kKeyStride, 7.0f);
      KvTile tile = {.keys = keys.data(), .values = nullptr, .tokens = 0, .rows = nullptr};
      KernelsFor(GetParam()).load_rows(pointers.data(), tokens, head_dim, &tile);
      for (int32_t c = 0; c < head_dim; ++c) {
        for (int32_t t = 0; t < kTileTokens; ++t) {
          const float want = t < tokens ? ToFloat(rows[t * 2 * head_dim + c]) : 0.0f;
          ASSERT_EQ(keys[c * kKeyStride + t], want) << head_dim << ", token " << t;
        }
      }
      for (size_t i = int64_t{head_dim} * kKeyStride; i < keys.size(); ++i) {
        ASSERT_EQ(keys[i], 7.0f) << "head_dim " << head_dim << " wrote beyond its channels";
      }
    }
  }
}

TEST_P(AttentionTest, ScoresFarApartNeitherOverflowNorLoseTheLargest) {
  // One key among 700 is the query itself, 40 times as long as the others: it takes all the weight.
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

// decisions/0003. The same query alone, among 5 and among 512, at 1 to 3 threads, and with the rows
// cut otherwise.
TEST_P(AttentionTest, AQuerysResultDependsOnItsVisibleRowsAlone) {
  constexpr int32_t kDim = 64;
  constexpr int64_t kTokens = 700, kQueries = 512, kCols = int64_t{kKvHeads} * 3 * kDim;
  const HostMatrix q = RandomMatrix(kQueries, kCols, 7);
  const auto run = [&](Backend& ops, int64_t last, int64_t count, int64_t longest) {
    // The newest of `count` queries is query `last`, at position kTokens - kQueries + last. A
    // head's rows are drawn in order, so fewer tokens are a prefix of the same rows.
    const SegmentedRows rows(ops, kKvHeads, kDim, kTokens - (kQueries - 1 - last), longest, 8);
    HostMatrix part(count, kCols);
    std::copy_n(q.row(last + 1 - count).data(), count * kCols, part.values.data());
    return Attend(ops, rows, part, kDim, Mask::kCausal);
  };
  const Answer want = run(*ops_, kQueries - 1, kQueries, 0);
  for (const int threads : {1, 2, 3}) {
    const auto ops = MakeBackend(threads);
    EXPECT_EQ(run(*ops, kQueries - 1, kQueries, 77).out.values, want.out.values) << threads;
    for (const int64_t last : {511, 400, 67, 4}) {
      SCOPED_TRACE(absl::StrCat(threads, " threads, query ", last));
      const Answer one = run(*ops, last, 1, 50);
      EXPECT_EQ(one.out.RowBits(0), want.out.RowBits(last));
      EXPECT_EQ(one.lse.RowBits(0), want.lse.RowBits(last));
      for (const int64_t count : {5, 40}) {
        if (count > last + 1) continue;
        const Answer some = run(*ops, last, count, 0);
        for (int64_t i = 0; i < count; ++i) {
          EXPECT_EQ(some.out.RowBits(i), want.out.RowBits(last + 1 - count + i)) << i;
        }
      }
    }
  }
}

// --- quantized pages ---

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
        host_pages[head].push_back(page.data());
        device_pages[head].push_back(memory.back().data());
      }
    }
    host_spans.assign(host_pages.begin(), host_pages.end());
    device_spans.assign(device_pages.begin(), device_pages.end());
  }
};

HostMatrix AttendPages(Backend& ops, const PageCase& pages, const SegmentedRows& residual,
                       const QuantizedPageShape& shape, const HostMatrix& q) {
  const DeviceMatrix device_q(ops, q), out(ops, 1, q.cols);
  ops.AttendQuantized({.q = device_q.view(),
                       .shape = shape,
                       .pages = pages.device_spans,
                       .residual = residual.device(),
                       .out = out.view()});
  return out.Download();
}

void ExpectAttendQuantized(Backend& ops, const QuantizedPageShape& shape, int64_t pages,
                           int64_t residual_tokens, int32_t group) {
  SCOPED_TRACE(absl::StrCat(shape.bits, " bits, ", pages, " pages, ", residual_tokens,
                            " residual tokens, group ", group, ", head_dim ", shape.head_dim));
  const PageCase codes(ops, shape, pages, 40 + pages);
  const SegmentedRows residual(ops, kKvHeads, shape.head_dim, residual_tokens, 90, 41);
  HostMatrix q = RandomMatrix(1, int64_t{kKvHeads} * group * shape.head_dim, 42), want(1, q.cols);
  AttendQuantizedRef({.q = q.view(),
                      .shape = shape,
                      .pages = codes.host_spans,
                      .residual = residual.host(),
                      .out = want.view()});
  std::vector<std::vector<float>> heads;
  for (int32_t head = 0; head < kKvHeads; ++head) {
    std::vector<float>& rows = heads.emplace_back();
    for (const auto& page : codes.host[head]) {
      HostMatrix values(kPageTokens, 2 * shape.head_dim);
      DequantizePageRef(page.data(), shape, values.view());
      rows.insert(rows.end(), values.values.begin(), values.values.end());
    }
    const auto last = ToFloats(residual.rows()[head]);
    rows.insert(rows.end(), last.begin(), last.end());
  }
  const AttentionTolerance tolerance = ToleranceOf(q, heads, shape.head_dim);
  const HostMatrix got = AttendPages(ops, codes, residual, shape, q);
  ExpectNear(got, want, [&](int64_t, int64_t) { return tolerance.out(); });
}

TEST_P(AttentionTest, QuantizedAttentionIsOneSoftmaxOverDequantizedPagesAndResidual) {
  int turn = 0;
  for (const int32_t bits : {1, 2, 4, 8}) {
    for (const int32_t head_dim : {64, 128}) {
      for (const int64_t pages : {0, 1, 2, 5}) {
        for (const int64_t residual : {0, 1, 128, 200, 255}) {
          if (pages + residual == 0) continue;
          ExpectAttendQuantized(*ops_, {.bits = bits, .head_dim = head_dim}, pages, residual,
                                kGroups[turn++ % 4]);
        }
      }
    }
  }
}

TEST_P(AttentionTest, QuantizedAttentionWithoutPagesIsAttentionBitForBit) {
  constexpr int32_t kDim = 64;
  const QuantizedPageShape shape = {.bits = 2, .head_dim = kDim};
  const PageCase none(*ops_, shape, 0, 1);
  for (const int64_t tokens : {1, 127, 257, 600}) {
    const SegmentedRows rows(*ops_, kKvHeads, kDim, tokens, 64, 43);
    const HostMatrix q = RandomMatrix(1, int64_t{kKvHeads} * 3 * kDim, 44);
    EXPECT_EQ(AttendPages(*ops_, none, rows, shape, q).values,
              Attend(*ops_, rows, q, kDim, Mask::kNone).out.values);
  }
}

TEST_P(AttentionTest, QuantizedAttentionIsTheSameAtAnyThreadCount) {
  const QuantizedPageShape shape = {.bits = 4, .head_dim = 64};
  const HostMatrix q = RandomMatrix(1, int64_t{kKvHeads} * 4 * 64, 45);
  const auto run = [&](Backend& ops) {
    const PageCase pages(ops, shape, 5, 46);
    return AttendPages(ops, pages, SegmentedRows(ops, kKvHeads, 64, 190, 0, 47), shape, q).values;
  };
  const auto want = run(*ops_);
  for (const int threads : {2, 3}) EXPECT_EQ(run(*MakeBackend(threads)), want) << threads;
}

}  // namespace
}  // namespace tailor
