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

// code = round(K * (127 / kmax)) with two rounded operations, then times a scale rounded once: each
// moves the product by at most u = 2^-24 of |K / scale| <= 127; code * scale itself is exact here.
double CodeErrorLimit(double scale) {
  const double u = std::ldexp(1.0, -24);
  return scale * (0.5 + 4 * 127 * u);
}

void ExpectIndexed(const PlainPool& pool, int32_t rank, int32_t head, PageId page) {
  const PoolShape& s = pool.view.shape();
  for (int c = 0; c < s.head_dim; ++c) {
    float kmax = 0;
    for (int t = 0; t < kPageTokens; ++t) {
      kmax = std::max(kmax, std::abs(pool.Key(s.sparse_layers[rank], head, page, t, c)));
    }
    ASSERT_EQ(pool.view.Kmax(rank, head, page)[c], kmax) << "channel " << c;
    const float scale = pool.view.IndexScale(rank, head, page)[c];
    ASSERT_EQ(scale, kmax / 127.0f) << "channel " << c;
    for (int t = 0; t < kPageTokens; ++t) {
      const int code = pool.view.Index(rank, head, page)[c * kPageTokens + t];
      const double key = pool.Key(s.sparse_layers[rank], head, page, t, c);
      ASSERT_GE(code, -127);
      ASSERT_LE(std::abs(static_cast<double>(code) * scale - key), CodeErrorLimit(scale))
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

TEST(SealPage, ExactMultiplesOfTheScaleAreKeptExactlyAndHalvesGoToEven) {
  const PlainPool pool({1, 1, 16, {0}});
  const PageId page{0};
  FillRandomly(pool, page, 1);
  const std::vector<float> keys = {127, -127, 0, 1, -1, 64, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f};
  const std::vector<int> codes = {127, -127, 0, 1, -1, 64, 0, 2, 2, 0, -2, -2};
  for (int t = 0; t < kPageTokens; ++t) pool.SetKey(0, 0, page, t, 3, keys[t % keys.size()]);
  SealPage(pool.view, page);
  EXPECT_EQ(pool.view.IndexScale(0, 0, page)[3], 1.0f);
  for (int t = 0; t < kPageTokens; ++t) {
    EXPECT_EQ(pool.view.Index(0, 0, page)[3 * kPageTokens + t], codes[t % codes.size()])
        << keys[t % keys.size()];
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
    pool.SetKey(0, 0, page, t, 0, t % 2 == 0 ? infinity : static_cast<float>(t));
    pool.SetKey(0, 0, page, t, 1, t % 2 == 0 ? nan : static_cast<float>(-t));
    pool.SetKey(0, 0, page, t, 2, t % 2 == 0 ? -infinity : nan);
  }
  SealPage(pool.view, page);
  const int8_t* index = pool.view.Index(0, 0, page);
  for (int t = 0; t < kPageTokens; ++t) {
    EXPECT_EQ(index[t], t % 2 == 0 ? 0 : t) << t;
    EXPECT_EQ(index[kPageTokens + t], t % 2 == 0 ? 0 : -t) << t;
    EXPECT_EQ(index[2 * kPageTokens + t], 0);
  }
  EXPECT_EQ(pool.view.Kmax(0, 0, page)[0], 127.0f);
  EXPECT_EQ(pool.view.Kmax(0, 0, page)[1], 127.0f);
  EXPECT_EQ(pool.view.Kmax(0, 0, page)[2], 0.0f);
  EXPECT_EQ(pool.view.IndexScale(0, 0, page)[2], 0.0f);
}

// Below 127 * 2^-126 the scale would be subnormal, and 127 / kmax soon overflow.
TEST(SealPage, AChannelOfZeroesOrOfNextToNothingHasScaleZero) {
  const PlainPool pool({1, 1, 16, {0}});
  const PageId page{0};
  FillRandomly(pool, page, 1);
  for (int t = 0; t < kPageTokens; ++t) {
    pool.SetKey(0, 0, page, t, 0, 0.0f);
    pool.SetKey(0, 0, page, t, 1, -0.0f);
    pool.SetKey(0, 0, page, t, 2, std::ldexp(1.0f, -130) * static_cast<float>(t % 3));
    pool.SetKey(0, 0, page, t, 3, std::ldexp(1.0f, -118) * static_cast<float>(t % 3));
  }
  SealPage(pool.view, page);
  for (int c = 0; c < 3; ++c) {
    EXPECT_EQ(pool.view.IndexScale(0, 0, page)[c], 0.0f) << "channel " << c;
    for (int t = 0; t < kPageTokens; ++t) {
      EXPECT_EQ(pool.view.Index(0, 0, page)[c * kPageTokens + t], 0) << "channel " << c;
    }
  }
  EXPECT_EQ(pool.view.Kmax(0, 0, page)[2], std::ldexp(1.0f, -129));
  EXPECT_EQ(pool.view.Index(0, 0, page)[3 * kPageTokens + 2], 127);
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
        EXPECT_TRUE(same(pool.view.Index(r, h, page), old.Index(r, h, page), kPageTokens * 32));
        EXPECT_TRUE(same(pool.view.IndexScale(r, h, page), old.IndexScale(r, h, page), 32));
        EXPECT_TRUE(same(pool.view.Kmax(r, h, page), old.Kmax(r, h, page), 32));
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
