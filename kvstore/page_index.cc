#include "kvstore/page_index.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "common/status.h"
#include "kvstore/select/key_codes.h"
#include "kvstore/select/row_check.h"

namespace tailor {
namespace {

// Keys of one page and head, channel-major in fp32: keys[c][t].
void TransposeKeys(const BFloat16* rows, int32_t head_dim, std::vector<float>* keys) {
  keys->resize(int64_t{head_dim} * kPageTokens);
  for (int32_t t = 0; t < kPageTokens; ++t) {
    for (int32_t c = 0; c < head_dim; ++c) {
      (*keys)[int64_t{c} * kPageTokens + t] = ToFloat(rows[int64_t{t} * 2 * head_dim + c]);
    }
  }
}

// A worker may write any bits: what is not finite counts as zero.
float Finite(float key) { return std::abs(key) <= std::numeric_limits<float>::max() ? key : 0.0f; }

// Of one channel of a page: keys [page_tokens].
void IndexChannel(const float* keys, uint8_t* codes, float* scale, float* min, float* kmax) {
  float low = Finite(keys[0]), high = low;
  for (int32_t t = 1; t < kPageTokens; ++t) {
    low = std::min(low, Finite(keys[t]));
    high = std::max(high, Finite(keys[t]));
  }
  const float range = high - low;
  const bool normal = range / kMaxCode >= std::numeric_limits<float>::min();
  *kmax = std::max(std::abs(low), std::abs(high));
  *min = low;
  *scale = normal ? range / kMaxCode : 0.0f;
  const float inverse = normal ? kMaxCode / range : 0.0f;
  std::memset(codes, 0, kCodeBytes);
  for (int32_t t = 0; t < kPageTokens; ++t) {
    // Adding and taking away 1.5 * 2^23 rounds half to even.
    const float rounded = ((Finite(keys[t]) - low) * inverse + 12582912.0f) - 12582912.0f;
    // Keys so large that their range overflows give NaN, which passes no comparison: code 0.
    const int32_t code = rounded > 0 ? static_cast<int32_t>(std::min(rounded, float{kMaxCode})) : 0;
    codes[CodeByte(t)] |= static_cast<uint8_t>(code << CodeShift(t));
  }
}

// rows: [page_tokens][2][head_dim]; mean: [2][head_dim].
void MeanOfRows(const BFloat16* rows, int32_t head_dim, std::vector<float>* sums, BFloat16* mean) {
  const int32_t row = 2 * head_dim;
  sums->assign(row, 0.0f);
  for (int32_t t = 0; t < kPageTokens; ++t) {
    for (int32_t c = 0; c < row; ++c) (*sums)[c] += Finite(ToFloat(rows[int64_t{t} * row + c]));
  }
  // Sums of the largest finite rows overflow.
  for (int32_t c = 0; c < row; ++c) mean[c] = ToBFloat16(Finite((*sums)[c]) / kPageTokens);
}

// XXH3 of each array seeded with the one before.
uint64_t PageChecksum(const PoolView& pool, PageId page) {
  uint64_t sum = XXH3_64bits(pool.Tokens(page), kPageTokens * sizeof(TokenId));
  for (int32_t layer = 0; layer < pool.shape().layers; ++layer) {
    for (int32_t head = 0; head < pool.shape().kv_heads; ++head) {
      sum = XXH3_64bits_withSeed(pool.RowChecks(layer, head, page), kPageTokens * sizeof(uint32_t),
                                 sum);
    }
  }
  return sum;
}

template <typename F>
void ForEachRow(const PoolView& pool, PageId page, F f) {
  const size_t row = 2 * static_cast<size_t>(pool.shape().head_dim);
  for (int32_t layer = 0; layer < pool.shape().layers; ++layer) {
    for (int32_t head = 0; head < pool.shape().kv_heads; ++head) {
      const BFloat16* rows = pool.Rows(layer, head, page);
      uint32_t* checks = pool.RowChecks(layer, head, page);
      for (int32_t t = 0; t < kPageTokens; ++t) {
        f(layer, head, t, std::span(rows + t * row, row), checks + t);
      }
    }
  }
}

}  // namespace

void SealPage(const PoolView& pool, PageId page) {
  const PoolShape& shape = pool.shape();
  std::vector<float> keys, sums;
  for (size_t rank = 0; rank < shape.sparse_layers.size(); ++rank) {
    const auto r = static_cast<int32_t>(rank);
    for (int32_t head = 0; head < shape.kv_heads; ++head) {
      TransposeKeys(pool.Rows(shape.sparse_layers[rank], head, page), shape.head_dim, &keys);
      for (int32_t c = 0; c < shape.head_dim; ++c) {
        IndexChannel(keys.data() + int64_t{c} * kPageTokens,
                     pool.Index(r, head, page) + int64_t{c} * kCodeBytes,
                     pool.IndexScale(r, head, page) + c, pool.IndexMin(r, head, page) + c,
                     pool.Kmax(r, head, page) + c);
      }
      MeanOfRows(pool.Rows(shape.sparse_layers[rank], head, page), shape.head_dim, &sums,
                 pool.MeanRow(r, head, page));
    }
  }
  ForEachRow(pool, page,
             [](int32_t, int32_t, int32_t, std::span<const BFloat16> row, uint32_t* check) {
               *check = RowCheck(row);
             });
  pool.Header(page)->checksum = PageChecksum(pool, page);
}

absl::Status VerifyPage(const PoolView& pool, PageId page) {
  absl::Status status;
  ForEachRow(pool, page,
             [&](int32_t layer, int32_t head, int32_t t, std::span<const BFloat16> row,
                 const uint32_t* check) {
               if (status.ok() && RowCheck(row) != *check) {
                 status =
                     absl::DataLossError(absl::StrCat("row check of page ", Index(page), " layer ",
                                                      layer, " head ", head, " token ", t));
               }
             });
  if (status.ok() && PageChecksum(pool, page) != pool.Header(page)->checksum) {
    status = absl::DataLossError(absl::StrCat("checksum of page ", Index(page)));
  }
  return status;
}

void ClearPage(const PoolView& pool, PageId page) {
  const PoolShape& s = pool.shape();
  std::memset(pool.Tokens(page), 0, kPageTokens * sizeof(TokenId));
  for (int32_t layer = 0; layer < s.layers; ++layer) {
    for (int32_t head = 0; head < s.kv_heads; ++head) {
      std::memset(static_cast<void*>(pool.Rows(layer, head, page)), 0,
                  int64_t{kPageTokens} * 2 * s.head_dim * sizeof(BFloat16));
      std::memset(pool.RowChecks(layer, head, page), 0, kPageTokens * sizeof(uint32_t));
    }
  }
  for (size_t rank = 0; rank < s.sparse_layers.size(); ++rank) {
    const auto r = static_cast<int32_t>(rank);
    for (int32_t head = 0; head < s.kv_heads; ++head) {
      std::memset(pool.Index(r, head, page), 0, int64_t{kCodeBytes} * s.head_dim);
      std::memset(pool.IndexScale(r, head, page), 0, s.head_dim * sizeof(float));
      std::memset(pool.IndexMin(r, head, page), 0, s.head_dim * sizeof(float));
      std::memset(pool.Kmax(r, head, page), 0, s.head_dim * sizeof(float));
      std::memset(static_cast<void*>(pool.MeanRow(r, head, page)), 0,
                  int64_t{2} * s.head_dim * sizeof(BFloat16));
    }
  }
}

}  // namespace tailor
