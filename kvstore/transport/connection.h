// The store's end of one worker's connection: its socket, its ring, its lease. Everything read from
// the ring is copied before it is looked at; the indices that decide where the store writes are the
// store's own. What a hostile worker can spoil is its own answers.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/shm/mapping.h"
#include "common/shm/ring_waiter.h"
#include "common/shm/spsc_ring.h"
#include "common/unique_handle.h"
#include "kvstore/select/select.h"
#include "kvstore/wire/messages.h"

namespace tailor {

// One request, in private memory.
struct TakenRequest {
  wire::SelectRequest request;
  std::vector<float> q;  // [request.q_floats], empty when q_floats passes the room
  uint64_t ticket = 0;   // the store's own count; request.ticket must equal it
};

class Connection {
 public:
  // With a new ring of this geometry and no socket yet. Errors: ResourceExhausted.
  static absl::StatusOr<std::shared_ptr<Connection>> Make(uint64_t lease,
                                                          const wire::RingGeometry& geometry);
  void Own(UniqueFd socket) { socket_ = std::move(socket); }  // before it is shared with threads

  int socket() const { return socket_.get(); }
  void HangUp() const;
  int ring_fd() const { return ring_fd_.get(); }
  uint64_t lease() const { return lease_; }
  const wire::RingGeometry& geometry() const { return geometry_; }

  // Takes the oldest request. kNotNow: none, and *empty tells how to wait for the next. kCorrupt:
  // the worker broke the protocol (an impossible index, or more requests than slots); disconnect.
  // Any thread.
  RingResult Take(TakenRequest* taken, RingWaiter::Watched* empty);

  // Places the answer to `ticket`, which this thread took, and wakes the worker if it sleeps.
  // `selection` is null when there is nothing but a status. Precondition: the selection fits.
  void Answer(uint64_t ticket, wire::SelectResponse response, const std::string& message,
              const Selection* selection);
  bool Fits(uint64_t payload_bytes) const { return payload_bytes <= geometry_.payload_bytes; }

  void Beat() { header_->store_heartbeat.fetch_add(1, std::memory_order_relaxed); }
  uint32_t worker_heartbeat() const {
    return header_->worker_heartbeat.load(std::memory_order_relaxed);
  }

  // Set by whoever finds the worker at fault; the listener then hangs up.
  void MarkBroken() { broken_.store(true, std::memory_order_release); }
  bool broken() const { return broken_.load(std::memory_order_acquire); }

 private:
  Connection(UniqueFd ring_fd, Mapping ring, uint64_t lease, const wire::RingGeometry& geometry);

  UniqueFd socket_, ring_fd_;
  Mapping ring_;
  const uint64_t lease_;
  const wire::RingGeometry geometry_;
  wire::RingHeader* header_;
  std::span<wire::ResponseSlot> responses_;

  std::mutex take_mutex_;
  SpscConsumer<wire::SelectRequest> requests_;  // guarded by take_mutex_
  uint64_t taken_ = 0;                          // guarded by take_mutex_
  // Whether a thread works on the answer of this slot; pairs Take with Answer.
  std::vector<std::atomic<bool>> busy_;  // [response_slots]
  std::atomic<bool> broken_{false};
};

}  // namespace tailor
