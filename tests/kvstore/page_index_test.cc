// What a seal computes, against its definition in page_index.h, in fp64.
#include "kvstore/page_index.h"

#include <gtest/gtest.h>
#include <xxhash.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kvstore/select/key_codes.h"

namespace tailor {
namespace {

constexpr int kPages = 3;

// A pool in plain memory, all bytes set to what nobody would write.
struct PlainPool {
  explicit PlainPool(const PoolShape& shape)
      : layout(*PoolLayout::Make(shape, kPages)),
        bytes(static_cast<size_t>(layout.bytes()), std::byte{0xA5}),
        view(bytes.data(), layout) {}

  float Key(int32_t layer, int32_t head, PageId page, int t, int c) const {
    return ToFloat(view.Rows(layer, head, page)[t * 2 * view.shape().head_dim + c]);
  }
  void SetKey(int32_t layer, int32_t head, PageId page, int t, int c, float value) const {
    view.Rows(layer, head, page)[t * 2 * view.shape().head_dim + c] = ToBFloat16(value);
  }

  PoolLayout layout;
  std::vector<std::byte> bytes;
  PoolView view;
};

// Values of very different size per channel, so that every channel has a scale of its own.
void FillRandomly(const PlainPool& pool, PageId page, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  const PoolShape& s = pool.view.shape();
  for (int t = 0; t < kPageTokens; ++t) pool.view.Tokens(page)[t] = static_cast<TokenId>(random());
  for (int32_t layer = 0; layer < s.layers; ++layer) {
    for (int32_t head = 0; head < s.kv_heads; ++head) {
      BFloat16* rows = pool.view.Rows(layer, head, page);
      for (int i = 0; i < kPageTokens * 2 * s.head_dim; ++i) {
        rows[i] = ToBFloat16(std::ldexp(normal(random), i % s.head_dim % 40 - 20));
      }
    }
  }
}

// code = round((K - min) * (15 / range)) with four rounded operations (the range is one): each
// moves the product, at most 15, by at most u = 2^-24 of it. The scale is rounded twice, code *
// scale once and is exact here in fp64.
double CodeErrorLimit(double scale) {
  const double u = std::ldexp(1.0, -24);
  return scale * (0.5 + 6 * 15 * u);
}

int Code(const PlainPool& pool, int32_t rank, int32_t head, PageId page, int c, int t) {
  return CodeOf(pool.view.Index(rank, head, page) + c * kCodeBytes, t);
}

void ExpectIndexed(const PlainPool& pool, int32_t rank, int32_t head, PageId page) {
  const PoolShape& s = pool.view.shape();
  for (int c = 0; c < s.head_dim; ++c) {
    float low = INFINITY, high = -INFINITY;
    for (int t = 0; t < kPageTokens; ++t) {
      const float key = pool.Key(s.sparse_layers[rank], head, page, t, c);
      low = std::min(low, key);
      high = std::max(high, key);
    }
    ASSERT_EQ(pool.view.Kmax(rank, head, page)[c], std::max(std::abs(low), std::abs(high)));
    const float scale = pool.view.IndexScale(rank, head, page)[c];
    const float min = pool.view.IndexMin(rank, head, page)[c];
    ASSERT_EQ(scale, (high - low) / 15.0f) << "channel " << c;
    ASSERT_EQ(min, low) << "channel " << c;
    for (int t = 0; t < kPageTokens; ++t) {
      const int code = Code(pool, rank, head, page, c, t);
      const double key = pool.Key(s.sparse_layers[rank], head, page, t, c);
      ASSERT_LE(std::abs(static_cast<double>(code) * scale + min - key), CodeErrorLimit(scale))
          << "channel " << c << " token " << t;
    }
  }
}

TEST(SealPage, IndexKmaxAndScaleAreThoseOfTheRows) {
  for (const PoolShape& shape :
       {PoolShape{3, 2, 64, {0, 2}}, PoolShape{2, 1, 128, {1}}, PoolShape{1, 1, 16, {0}}}) {
    const PlainPool pool(shape);
    const PageId page{1};
    FillRandomly(pool, page, 5);
    SealPage(pool.view, page);
    for (int32_t rank = 0; rank < static_cast<int32_t>(shape.sparse_layers.size()); ++rank) {
      for (int32_t head = 0; head < shape.kv_heads; ++head) ExpectIndexed(pool, rank, head, page);
    }
  }
}

// A sum of 128 floats is off by at most 127 roundings of the sum of magnitudes, the mean by one to
// bf16.
TEST(SealPage, MeanRowsAreTheMeansOfKeysAndValues) {
  for (const PoolShape& shape : {PoolShape{3, 2, 64, {0, 2}}, PoolShape{2, 1, 16, {1}}}) {
    const PlainPool pool(shape);
    const PageId page{1};
    FillRandomly(pool, page, 6);
    SealPage(pool.view, page);
    for (int32_t rank = 0; rank < static_cast<int32_t>(shape.sparse_layers.size()); ++rank) {
      for (int32_t head = 0; head < shape.kv_heads; ++head) {
        const BFloat16* rows = pool.view.Rows(shape.sparse_layers[rank], head, page);
        for (int c = 0; c < 2 * shape.head_dim; ++c) {
          double sum = 0, size = 0;
          for (int t = 0; t < kPageTokens; ++t) {
            const double value = ToFloat(rows[t * 2 * shape.head_dim + c]);
            sum += value;
            size += std::abs(value);
          }
          const double mean = sum / kPageTokens;
          ASSERT_NEAR(ToFloat(pool.view.MeanRow(rank, head, page)[c]), mean,
                      std::ldexp(std::abs(mean), -8) + std::ldexp(size, -24))
              << "element " << c;
        }
      }
    }
  }
}

TEST(SealPage, AMeanRowIsFiniteWhateverTheRowsAre) {
  const PlainPool pool({1, 1, 16, {0}});
  const PageId page{0};
  FillRandomly(pool, page, 1);
  const float infinity = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (int t = 0; t < kPageTokens; ++t) {
    pool.SetKey(0, 0, page, t, 0, t % 2 == 0 ? infinity : 3.0f);
    pool.SetKey(0, 0, page, t, 1, t % 4 == 0 ? nan : 2.0f);
    pool.SetKey(0, 0, page, t, 2, std::numeric_limits<float>::max());
  }
  SealPage(pool.view, page);
  EXPECT_EQ(ToFloat(pool.view.MeanRow(0, 0, page)[0]), 1.5f);
  EXPECT_EQ(ToFloat(pool.view.MeanRow(0, 0, page)[1]), 1.5f);
  EXPECT_EQ(ToFloat(pool.view.MeanRow(0, 0, page)[2]), 0.0f) << "a sum that overflows";
}

TEST(SealPage, ExactMultiplesOfTheScaleAreKeptExactlyAndHalvesGoToEven) {
  const PlainPool pool({1, 1, 16, {0}});
  const PageId page{0};
  FillRandomly(pool, page, 1);
  const std::vector<float> keys = {-3, 12, 0, 1, -1, 5, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f};
  const std::vector<int> codes = {0, 15, 3, 4, 2, 8, 4, 4, 6, 2, 2, 0};
  for (int t = 0; t < kPageTokens; ++t) pool.SetKey(0, 0, page, t, 3, keys[t % keys.size()]);
  SealPage(pool.view, page);
  EXPECT_EQ(pool.view.IndexScale(0, 0, page)[3], 1.0f);
  EXPECT_EQ(pool.view.IndexMin(0, 0, page)[3], -3.0f);
  for (int t = 0; t < kPageTokens; ++t) {
    EXPECT_EQ(Code(pool, 0, 0, page, 3, t), codes[t % codes.size()]) << keys[t % keys.size()];
  }
}

// A worker may write any bits. Whatever they are, the codes are defined, and finite keys keep their
// error bound next to ones that are not.
TEST(SealPage, KeysThatAreNotFiniteCountAsZero) {
  const float infinity = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const PlainPool pool({1, 1, 16, {0}});
  const PageId page{0};
  FillRandomly(pool, page, 1);
  for (int t = 0; t < kPageTokens; ++t) {
    const auto code = static_cast<float>(t / 2 % 16);
    pool.SetKey(0, 0, page, t, 0, t % 2 == 0 ? infinity : code);
    pool.SetKey(0, 0, page, t, 1, t % 2 == 0 ? nan : -code);
    pool.SetKey(0, 0, page, t, 2, t % 2 == 0 ? -infinity : nan);
  }
  SealPage(pool.view, page);
  for (int t = 0; t < kPageTokens; ++t) {
    EXPECT_EQ(Code(pool, 0, 0, page, 0, t), t % 2 == 0 ? 0 : t / 2 % 16) << t;
    EXPECT_EQ(Code(pool, 0, 0, page, 1, t), t % 2 == 0 ? 15 : 15 - t / 2 % 16) << t;
    EXPECT_EQ(Code(pool, 0, 0, page, 2, t), 0);
  }
  EXPECT_EQ(pool.view.Kmax(0, 0, page)[0], 15.0f);
  EXPECT_EQ(pool.view.Kmax(0, 0, page)[1], 15.0f);
  EXPECT_EQ(pool.view.Kmax(0, 0, page)[2], 0.0f);
  EXPECT_EQ(pool.view.IndexMin(0, 0, page)[1], -15.0f);
  EXPECT_EQ(pool.view.IndexScale(0, 0, page)[2], 0.0f);
}

// Below 15 * 2^-126 the scale would be subnormal, and 15 / range soon overflow.
TEST(SealPage, AChannelOfOneValueOrOfNextToNoRangeHasScaleZero) {
  const PlainPool pool({1, 1, 16, {0}});
  const PageId page{0};
  FillRandomly(pool, page, 1);
  for (int t = 0; t < kPageTokens; ++t) {
    pool.SetKey(0, 0, page, t, 0, 0.0f);
    pool.SetKey(0, 0, page, t, 1, -7.5f);
    pool.SetKey(0, 0, page, t, 2, std::ldexp(1.0f, -130) * static_cast<float>(t % 3));
    pool.SetKey(0, 0, page, t, 3, std::ldexp(1.0f, -118) * static_cast<float>(t % 3));
  }
  SealPage(pool.view, page);
  for (int c = 0; c < 3; ++c) {
    EXPECT_EQ(pool.view.IndexScale(0, 0, page)[c], 0.0f) << "channel " << c;
    for (int t = 0; t < kPageTokens; ++t) {
      EXPECT_EQ(Code(pool, 0, 0, page, c, t), 0) << "channel " << c;
    }
  }
  EXPECT_EQ(pool.view.Kmax(0, 0, page)[2], std::ldexp(1.0f, -129));
  EXPECT_EQ(pool.view.IndexMin(0, 0, page)[1], -7.5f);
  EXPECT_EQ(Code(pool, 0, 0, page, 3, 2), 15);
}

TEST(SealPage, ChecksAreXxh3OfEachRowAndTheChecksumChainsTokensAndChecks) {
  const PlainPool pool({3, 2, 32, {1}});
  const PageId page{2};
  FillRandomly(pool, page, 9);
  SealPage(pool.view, page);
  uint64_t sum = XXH3_64bits(pool.view.Tokens(page), kPageTokens * sizeof(TokenId));
  for (int32_t layer = 0; layer < 3; ++layer) {
    for (int32_t head = 0; head < 2; ++head) {
      const uint32_t* checks = pool.view.RowChecks(layer, head, page);
      for (int t = 0; t < kPageTokens; ++t) {
        ASSERT_EQ(checks[t], static_cast<uint32_t>(
                                 XXH3_64bits(pool.view.Rows(layer, head, page) + t * 64, 64 * 2)));
      }
      sum = XXH3_64bits_withSeed(checks, kPageTokens * sizeof(uint32_t), sum);
    }
  }
  EXPECT_EQ(pool.view.Header(page)->checksum, sum);
}

TEST(SealPage, TouchesNoOtherPage) {
  const PlainPool pool({3, 2, 32, {1, 2}});
  FillRandomly(pool, PageId{1}, 9);
  const std::vector<std::byte> before = pool.bytes;
  SealPage(pool.view, PageId{1});
  ClearPage(pool.view, PageId{1});
  const PoolView old(const_cast<std::byte*>(before.data()), pool.layout);
  const auto same = [](const auto* a, const auto* b, size_t count) {
    return std::memcmp(a, b, count * sizeof(*a)) == 0;
  };
  for (const PageId page : {PageId{0}, PageId{2}}) {
    EXPECT_TRUE(same(pool.view.Header(page), old.Header(page), 1));
    EXPECT_TRUE(same(pool.view.Tokens(page), old.Tokens(page), kPageTokens));
    for (int h = 0; h < 2; ++h) {
      for (int l = 0; l < 3; ++l) {
        EXPECT_TRUE(same(pool.view.Rows(l, h, page), old.Rows(l, h, page), kPageTokens * 64));
        EXPECT_TRUE(same(pool.view.RowChecks(l, h, page), old.RowChecks(l, h, page), kPageTokens));
      }
      for (int r = 0; r < 2; ++r) {
        EXPECT_TRUE(same(pool.view.Index(r, h, page), old.Index(r, h, page), kCodeBytes * 32));
        EXPECT_TRUE(same(pool.view.IndexScale(r, h, page), old.IndexScale(r, h, page), 32));
        EXPECT_TRUE(same(pool.view.IndexMin(r, h, page), old.IndexMin(r, h, page), 32));
        EXPECT_TRUE(same(pool.view.Kmax(r, h, page), old.Kmax(r, h, page), 32));
        EXPECT_TRUE(same(pool.view.MeanRow(r, h, page), old.MeanRow(r, h, page), 64));
      }
    }
  }
}

TEST(VerifyPage, AnyFlippedBitIsFoundAndNamed) {
  const PlainPool pool({2, 2, 32, {1}});
  const PageId page{1};
  FillRandomly(pool, page, 3);
  SealPage(pool.view, page);
  ASSERT_TRUE(VerifyPage(pool.view, page).ok());
  const auto says = [&](const std::string& part) {
    const absl::Status found = VerifyPage(pool.view, page);
    EXPECT_EQ(found.code(), absl::StatusCode::kDataLoss);
    EXPECT_NE(std::string(found.message()).find(part), std::string::npos) << found;
  };
  std::mt19937_64 random(4);
  for (int round = 0; round < 200; ++round) {
    const auto layer = static_cast<int32_t>(random() % 2),
               head = static_cast<int32_t>(random() % 2);
    const uint64_t value = random() % (kPageTokens * 64);
    const auto bit = static_cast<uint16_t>(1u << random() % 16);
    const std::string where =
        absl::StrCat("row check of page 1 layer ", layer, " head ", head, " token ", value / 64);
    pool.view.Rows(layer, head, page)[value].bits ^= bit;
    says(where);
    pool.view.Rows(layer, head, page)[value].bits ^= bit;
    pool.view.RowChecks(layer, head, page)[value / 64] ^= bit;
    says(where);
    pool.view.RowChecks(layer, head, page)[value / 64] ^= bit;
    pool.view.Tokens(page)[value % kPageTokens] ^= bit;
    says("checksum of page 1");
    pool.view.Tokens(page)[value % kPageTokens] ^= bit;
  }
  pool.view.Header(page)->checksum ^= 1;
  says("checksum of page 1");
}

}  // namespace
}  // namespace tailor
