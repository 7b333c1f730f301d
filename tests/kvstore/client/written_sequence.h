// Sequences with known content: every row is a function of (seed, layer, head, token), so that any
// test can tell what a store must give back.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "common/status.h"
#include "kvstore/client/kv_client.h"

namespace tailor {

inline PoolSpec SmallPool(int64_t max_bytes = 0) {
  PoolSpec spec;
  spec.model.bytes[0] = 1;
  spec.policy.bytes[0] = 2;
  spec.shape = {.layers = 3, .kv_heads = 2, .head_dim = 16, .sparse_layers = {1, 2}};
  spec.max_bytes = max_bytes;
  return spec;
}

// In (-1, 1), different for every argument.
inline float KnownValue(uint32_t seed, int layer, int head, int64_t token, int half, int channel) {
  uint32_t x = seed * 2654435761u;
  for (const int64_t part :
       {int64_t{layer}, int64_t{head}, token, int64_t{half}, int64_t{channel}}) {
    x = (x ^ static_cast<uint32_t>(part + 1)) * 0x85ebca6bu;
    x ^= x >> 15;
  }
  return static_cast<float>(x >> 8) / 8388608.0f - 1.0f;
}

inline std::vector<TokenId> KnownTokens(uint32_t seed, int64_t count) {
  std::vector<TokenId> tokens(count);
  for (int64_t i = 0; i < count; ++i)
    tokens[i] = static_cast<TokenId>((i * 7 + seed * 1000) % 4000);
  return tokens;
}

inline void WriteToken(const PoolView& pool, PageId page, int64_t token, TokenId id,
                       uint32_t seed) {
  const int64_t at = token % kPageTokens;
  const int d = pool.shape().head_dim;
  pool.Tokens(page)[at] = id;
  for (int layer = 0; layer < pool.shape().layers; ++layer) {
    for (int head = 0; head < pool.shape().kv_heads; ++head) {
      BFloat16* const row = pool.Rows(layer, head, page) + at * 2 * d;
      for (int i = 0; i < 2 * d; ++i) {
        row[i] = ToBFloat16(KnownValue(seed, layer, head, token, i / d, i % d));
      }
    }
  }
}

// A sequence as its worker keeps it.
struct WrittenSequence {
  SequenceHandle handle;
  std::vector<PageId> pages;
  std::vector<TokenId> tokens;
  int64_t sealed_pages = 0;
};

// Writes and commits tokens [committed, tokens.size()), reserving pages as needed, then seals whole
// pages. Rows are those of `seed`.
inline absl::Status Extend(KvClient& client, const PoolView& pool, WrittenSequence& sequence,
                           int64_t committed, uint32_t seed) {
  const auto count = static_cast<int64_t>(sequence.tokens.size());
  const int64_t need =
      (count + kPageTokens - 1) / kPageTokens - static_cast<int64_t>(sequence.pages.size());
  if (need > 0) {
    TS_ASSIGN_OR_RETURN(const std::vector<PageId> pages,
                        client.ReservePages(sequence.handle, need));
    sequence.pages.insert(sequence.pages.end(), pages.begin(), pages.end());
  }
  for (int64_t t = committed; t < count; ++t) {
    WriteToken(pool, sequence.pages[t / kPageTokens], t, sequence.tokens[t], seed);
  }
  TS_RETURN_IF_ERROR(client.Commit(sequence.handle, count));
  const int64_t whole = count / kPageTokens - sequence.sealed_pages;
  if (whole > 0) {
    TS_RETURN_IF_ERROR(client.SealPages(sequence.handle, whole, PageOrigin::kExactPrefill));
    sequence.sealed_pages += whole;
  }
  return absl::OkStatus();
}

// A new sequence of `count` tokens, all of seed's content.
inline absl::StatusOr<WrittenSequence> WriteSequence(KvClient& client, const PoolView& pool,
                                                     const std::string& name, int64_t count,
                                                     uint32_t seed) {
  WrittenSequence sequence{.handle = {}, .pages = {}, .tokens = KnownTokens(seed, count)};
  TS_ASSIGN_OR_RETURN(SequenceGrant grant,
                      client.OpenSequence({.tenant = "t", .name = name}, sequence.tokens));
  sequence.handle = grant.handle;
  sequence.pages = std::move(grant.pages);
  sequence.sealed_pages = grant.sealed_pages;
  TS_RETURN_IF_ERROR(Extend(client, pool, sequence, grant.committed_tokens, seed));
  return sequence;
}

inline std::vector<float> KnownQuery(const PoolShape& shape, int q_heads, uint32_t seed) {
  std::vector<float> q(static_cast<size_t>(q_heads) * shape.head_dim);
  for (size_t i = 0; i < q.size(); ++i) q[i] = KnownValue(seed, 99, 0, 0, 0, static_cast<int>(i));
  return q;
}

// An answer, out of the store's memory.
struct OwnedRows {
  int32_t count = 0;
  std::vector<int32_t> tokens;
  std::vector<uint16_t> rows;
  friend bool operator==(const OwnedRows&, const OwnedRows&) = default;
};

inline absl::StatusOr<OwnedRows> SelectNow(KvClient& client, const SelectCall& call) {
  TS_ASSIGN_OR_RETURN(const uint64_t ticket, client.PostSelect(call));
  TS_ASSIGN_OR_RETURN(const SelectedRows selected, client.FinishSelect(ticket));
  OwnedRows owned{.count = selected.count,
                  .tokens = {selected.tokens.begin(), selected.tokens.end()},
                  .rows = {}};
  for (const BFloat16 value : selected.rows) owned.rows.push_back(value.bits);
  return owned;
}

}  // namespace tailor
