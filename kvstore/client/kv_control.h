// The control calls of a worker, as something that can be carried by any RPC: what ShmKvClient
// needs besides shared memory. GrpcKvControl (services/) implements it; this header knows no gRPC.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kvstore/client/kv_client.h"

namespace tailor {

// Who calls: the lease that the store gave to the worker's socket, in the store's boot `epoch`.
// Every call carries it; a store of another epoch refuses with FailedPrecondition.
struct LeaseRef {
  uint64_t epoch = 0;
  uint64_t lease = 0;
};

// Where the pool lies in the arena. PoolLayout::Make(spec.shape, pages) gives the rest.
struct PoolGrant {
  uint64_t pool = 0;          // names it in OpenSequence
  uint64_t arena_offset = 0;  // of its first byte
  int64_t pages = 0;
};

struct SlottedGrant {
  SequenceGrant grant;
  uint32_t slot = 0;  // of the arena's slot table: where Commit publishes
};

// Thread-safe. Every call ends by its own deadline: DeadlineExceeded or Unavailable. For the other
// errors see KvClient's method of the same name.
class KvControl {
 public:
  virtual ~KvControl() = default;

  virtual absl::StatusOr<PoolGrant> OpenPool(LeaseRef lease, const PoolSpec& spec) = 0;
  virtual absl::StatusOr<SlottedGrant> OpenSequence(LeaseRef lease, uint64_t pool,
                                                    const SequenceKey& key,
                                                    std::span<const TokenId> history) = 0;
  virtual absl::StatusOr<SlottedGrant> ForkSequence(LeaseRef lease, SequenceHandle parent,
                                                    const SequenceKey& child) = 0;
  virtual absl::StatusOr<std::vector<PageId>> ReservePages(LeaseRef lease, SequenceHandle sequence,
                                                           int64_t count) = 0;
  virtual absl::Status SealPages(LeaseRef lease, SequenceHandle sequence, int64_t count,
                                 PageOrigin origin) = 0;
  virtual absl::Status VerifyPages(LeaseRef lease, SequenceHandle sequence, int64_t first,
                                   int64_t count) = 0;
  virtual absl::Status DetachSequence(LeaseRef lease, SequenceHandle sequence) = 0;
  virtual absl::Status CloseSequence(LeaseRef lease, SequenceHandle sequence) = 0;
  virtual absl::Status RemoveSequence(LeaseRef lease, const SequenceKey& key) = 0;
  virtual absl::StatusOr<std::vector<ExactOutput>> AttendExactly(LeaseRef lease,
                                                                 const ExactCall& call) = 0;
  virtual absl::StatusOr<StoreStats> Stats(LeaseRef lease) = 0;
};

}  // namespace tailor
