// The worker's end of the data plane: the socket that is its lease, the mapped arena and the ring.
// Knows bytes, not pools: ShmKvClient gives them meaning. kvstore/wire/format.md is the protocol.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "common/shm/mapping.h"
#include "common/shm/spsc_ring.h"
#include "common/unique_handle.h"
#include "kvstore/client/kv_control.h"
#include "kvstore/wire/messages.h"

namespace tailor {

struct StoreLinkOptions {
  std::string socket_path;
  uint64_t expected_epoch = 0;  // of the store; 0: whichever runs
  int64_t connect_timeout_ms = 5000;
  // How long a wait looks at the answer's word before it sleeps. Longer: no wake-up (40-70 us) for
  // answers that come soon. Shorter: the core is free, perhaps for the store itself.
  int64_t spin_us = 20;
  // A store whose heartbeat stands still for so long is taken for dead until it beats again. Longer
  // than any pause that a busy machine gives it.
  int64_t silence_limit_ms = 10'000;
};

// An answer that was found sound. Points into the ring: valid until the slot is posted to again.
struct RawAnswer {
  wire::SelectResponse response;  // status 0
  std::span<const int32_t> tokens;
  std::span<const BFloat16> rows;
};

// Post and Wait: one thread. Health: any.
class StoreLink {
 public:
  // Errors: Unavailable (nobody listens, or it hung up), DeadlineExceeded, PermissionDenied,
  // FailedPrecondition (another epoch or version), ResourceExhausted (too many connections).
  static absl::StatusOr<std::unique_ptr<StoreLink>> Connect(const StoreLinkOptions& options);
  ~StoreLink();  // hangs up: the lease ends

  LeaseRef lease() const { return {.epoch = reply_.epoch, .lease = reply_.lease}; }
  std::byte* arena() const { return arena_.data(); }
  int64_t arena_bytes() const { return arena_.size(); }
  uint64_t slot_table_offset() const { return reply_.slot_table_offset; }
  uint64_t slot_count() const { return reply_.slot_count; }
  uint32_t response_slots() const { return reply_.ring.response_slots; }
  uint32_t query_floats() const { return reply_.ring.query_floats; }
  // Where the answer in a slot lies: tokens, then rows.
  std::span<std::byte> Payload(uint32_t slot) const;

  // Unavailable when the store has hung up or is silent.
  absl::Status Health() const;

  // Posts; fills in version, epoch, ticket, q_floats and check. Returns the ticket. Errors:
  // InvalidArgument (too many queries), ResourceExhausted (an earlier selection in the same slot
  // was never answered), Unavailable, Internal (the ring is corrupt).
  absl::StatusOr<uint64_t> Post(wire::SelectRequest request, std::span<const float> q);
  // The same, answered in response slot `slot`: posts what the store drops unserved until that
  // slot's turn comes.
  absl::StatusOr<uint64_t> PostInto(uint32_t slot, const wire::SelectRequest& request,
                                    std::span<const float> q);
  bool Answered(uint64_t ticket) const;
  // Waits for the answer to `ticket`. Errors: the answer's own; DeadlineExceeded; Unavailable (the
  // store is gone); DataLoss (an answer that contradicts itself).
  absl::StatusOr<RawAnswer> Wait(uint64_t ticket, int64_t deadline_ns);

 private:
  StoreLink(const StoreLinkOptions& options, const wire::HelloReply& reply, UniqueFd socket,
            UniqueFd stop, Mapping arena, Mapping ring);
  wire::ResponseSlot& SlotOf(uint64_t ticket) const;
  absl::Status AwaitDone(wire::ResponseSlot& slot, uint32_t done, int64_t deadline_ns);
  absl::StatusOr<RawAnswer> ReadAnswer(uint64_t ticket) const;
  void WatchLoop();
  void WakeAll();

  const StoreLinkOptions options_;
  const wire::HelloReply reply_;
  const UniqueFd socket_, stop_;  // stop_: an eventfd that ends WatchLoop
  const Mapping arena_, ring_;
  wire::RingHeader* const header_;
  SpscProducer<wire::SelectRequest> requests_;
  uint64_t next_ticket_ = 0;
  std::atomic<bool> gone_{false}, silent_{false};  // written by the watcher
  std::thread watcher_;
};

}  // namespace tailor
