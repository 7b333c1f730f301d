// What an engine is told at start: limits of memory, context and batches.
#pragma once

#include <cstdint>

#include "absl/status/status.h"

namespace tailor {

struct EngineOptions {
  int64_t worker_memory_bytes = 0;     // budget of sequences' worker-resident KV; 0: no limit
  int64_t context_tokens = 0;          // longest sequence; 0: the model's
  int32_t prefill_chunk_tokens = 512;  // tokens per (layer, chunk) unit: more is faster, less
                                       // yields sooner to other sequences' decode steps
  int32_t max_sequences = 64;          // live in this worker; the least recently used is detached
  // Turns that decode together, one token each, reading the weights once: more is faster in all,
  // fewer give each token sooner. At most 16 (kMaxDecodeRows).
  int32_t max_decode_rows = 16;

  // Errors: InvalidArgument names thing, value, limit.
  absl::Status Validate() const;
};

}  // namespace tailor
