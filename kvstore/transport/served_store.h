// What the transport needs of a store: leases, and selections. PageStore stands behind it in the
// process; tests put stores there that are slow or fail.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kvstore/client/kv_client.h"
#include "kvstore/select/select.h"

namespace tailor {

// What a worker maps. The descriptor is the store's, and lives as long as it.
struct ServedArena {
  int fd = -1;
  int64_t bytes = 0;
  uint64_t slot_table_offset = 0;  // from the arena's first byte
  uint64_t slot_count = 0;
};

// Thread-safe. Outlives the server.
class ServedStore {
 public:
  virtual ~ServedStore() = default;
  virtual uint64_t epoch() const = 0;
  virtual ServedArena arena() const = 0;
  virtual uint64_t AcquireLease() = 0;
  // Detaches the lease's sequences and frees their open pages. Idempotent.
  virtual void DropLease(uint64_t lease) = 0;

  // Chooses and copies out rows; `call` may hold anything. `out` is filled when OK: count, tokens
  // [kv_heads][count], rows [kv_heads][count][2][head_dim], with the shape in *kv_heads, *head_dim.
  // Errors: as KvClient::FinishSelect; InvalidArgument.
  struct Shape {
    int32_t kv_heads = 0, head_dim = 0;
  };
  virtual absl::StatusOr<Shape> Select(uint64_t lease, const SelectCall& call,
                                       SelectScratch& scratch, Selection* out) = 0;
};

}  // namespace tailor
