#include "kvstore/transport/connection.h"

#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/log.h"
#include "common/status.h"

namespace tailor {
namespace {

template <typename T>
std::span<T> Part(const Mapping& ring, uint64_t offset, uint64_t count) {
  return {reinterpret_cast<T*>(ring.data() + offset), count};
}

}  // namespace

absl::StatusOr<std::shared_ptr<Connection>> Connection::Make(uint64_t lease,
                                                             const wire::RingGeometry& geometry) {
  TS_CHECK(wire::IsSound(geometry));
  TS_ASSIGN_OR_RETURN(UniqueFd ring_fd, CreateSealedMemfd("tailor-ring", geometry.ring_bytes));
  TS_ASSIGN_OR_RETURN(Mapping ring, Mapping::Map(ring_fd.get(), geometry.ring_bytes));
  return std::shared_ptr<Connection>(
      new Connection(std::move(ring_fd), std::move(ring), lease, geometry));
}

Connection::Connection(UniqueFd ring_fd, Mapping ring, uint64_t lease,
                       const wire::RingGeometry& geometry)
    : ring_fd_(std::move(ring_fd)),
      ring_(std::move(ring)),
      lease_(lease),
      geometry_(geometry),
      header_(reinterpret_cast<wire::RingHeader*>(ring_.data())),
      responses_(
          Part<wire::ResponseSlot>(ring_, geometry.responses_offset, geometry.response_slots)),
      requests_(&header_->requests,
                Part<wire::SelectRequest>(ring_, geometry.requests_offset, geometry.request_slots)),
      busy_(geometry.response_slots) {}

void Connection::HangUp() const {
  // ENOTCONN: the worker was faster.
  if (::shutdown(socket_.get(), SHUT_RDWR) != 0) spdlog::debug("hang-up: the peer is gone already");
}

RingResult Connection::Take(TakenRequest* taken, RingWaiter::Watched* empty) {
  uint32_t index;
  {
    std::lock_guard lock(take_mutex_);
    index = requests_.next();
    const RingResult result = requests_.TryPop(&taken->request);
    if (result != RingResult::kOk) {
      *empty = {requests_.indices(), index};
      return result;
    }
    taken->ticket = taken_++;
  }
  // A request whose answer would overwrite one still being written: more posted than may be
  // pending.
  std::atomic<bool>& busy = busy_[taken->ticket % busy_.size()];
  if (busy.exchange(true, std::memory_order_acquire)) return RingResult::kCorrupt;
  const uint32_t floats = taken->request.q_floats;
  taken->q.clear();
  if (floats <= geometry_.query_floats) {
    // The area of this request stays the worker's until the answer; copied, since it may write on.
    const uint64_t first = uint64_t{index & (geometry_.request_slots - 1)} * geometry_.query_floats;
    const auto area = Part<const float>(ring_, geometry_.queries_offset, 0).data() + first;
    taken->q.assign(area, area + floats);
  }
  return RingResult::kOk;
}

void Connection::Answer(uint64_t ticket, wire::SelectResponse response, const std::string& message,
                        const Selection* selection) {
  const uint64_t index = ticket % responses_.size();
  wire::ResponseSlot& slot = responses_[index];
  response.ticket = ticket;
  response.rows_offset = 0;
  if (selection != nullptr) {
    response.rows_offset = wire::RowsOffset(response.kv_heads, response.count);
    std::byte* const payload =
        ring_.data() + geometry_.payloads_offset + index * geometry_.payload_bytes;
    TS_CHECK(Fits(wire::PayloadBytes(response.kv_heads, response.count, response.head_dim)));
    const std::span tokens(selection->tokens);  // [kv_heads][count]
    const std::span rows(selection->rows);      // [kv_heads][count][2][head_dim]
    TS_CHECK(tokens.size() == uint64_t{response.kv_heads} * response.count);
    TS_CHECK(rows.size() == tokens.size() * 2 * response.head_dim);
    std::memcpy(payload, tokens.data(), tokens.size_bytes());
    std::memcpy(payload + response.rows_offset, rows.data(), rows.size_bytes());
  }
  response.check = wire::ResponseCheck(response);
  slot.response = response;
  const size_t length = std::min(message.size(), sizeof(slot.message) - 1);
  std::memcpy(slot.message, message.data(), length);
  slot.message[length] = '\0';
  busy_[index].store(false, std::memory_order_release);  // pairs with the exchange in Take
  // Publishes the answer to the worker's acquire; seq_cst against its "sleeping, then done".
  slot.done.store(static_cast<uint32_t>(ticket + 1), std::memory_order_seq_cst);
  if (slot.sleeping.load(std::memory_order_seq_cst) != 0) FutexWakeSome(slot.done, 1);
}

}  // namespace tailor
