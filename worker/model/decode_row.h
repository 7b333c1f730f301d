// One sequence's part in a decode step.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "worker/cache/sequence_cache.h"

namespace tailor {

// Rows of one step. A CUDA row has the same bits in every batch of so many, but not of more
// (worker/ops/backend.h).
inline constexpr int32_t kMaxDecodeRows = 16;

struct DecodeRow {
  TokenId token = 0;               // its position is cache->tokens(), for which a row is reserved
  SequenceCache* cache = nullptr;  // of this row alone
  // What became of it. Once it isn't Ok, nobody reads the row's activations and the sequence is
  // unusable: DataLoss, DeadlineExceeded, Unavailable from the store.
  absl::Status status;
};

}  // namespace tailor
