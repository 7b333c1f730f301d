#include "kvstore/wire/messages.h"

#include <xxhash.h>

#include <bit>

#include "kvstore/client/kv_client.h"

namespace tailor::wire {
namespace {

constexpr uint64_t kPartAlignment = 4096;
constexpr uint32_t kRequestSlots = 8;  // more than can be pending: a full ring is a client's error
static_assert(kRequestSlots >= kMaxPendingSelects);

uint64_t AlignUp(uint64_t bytes, uint64_t alignment) {
  return (bytes + alignment - 1) / alignment * alignment;
}

// A part of `count` elements of `element_bytes` at `offset` lies inside `total`. Both factors are
// below 2^48 in all callers after the first comparison, so nothing overflows.
bool Fits(uint64_t offset, uint64_t count, uint64_t element_bytes, uint64_t total) {
  if (offset % kPartAlignment != 0 || offset > total || element_bytes > total) return false;
  return count == 0 || element_bytes <= (total - offset) / count;
}

template <typename Message>
uint32_t CheckOf(Message message) {
  message.check = 0;
  return static_cast<uint32_t>(XXH3_64bits(&message, sizeof(message)));
}

}  // namespace

uint32_t RequestCheck(const SelectRequest& request) { return CheckOf(request); }
uint32_t ResponseCheck(const SelectResponse& response) { return CheckOf(response); }

RingGeometry MakeRingGeometry(uint32_t query_floats, uint64_t payload_bytes) {
  RingGeometry g{};
  g.request_slots = kRequestSlots;
  g.response_slots = std::bit_ceil(static_cast<uint32_t>(kMaxPendingSelects));
  g.query_floats = query_floats;
  g.payload_bytes = AlignUp(payload_bytes, kPartAlignment);
  g.requests_offset = AlignUp(sizeof(RingHeader), kPartAlignment);
  g.queries_offset =
      AlignUp(g.requests_offset + g.request_slots * sizeof(SelectRequest), kPartAlignment);
  g.responses_offset =
      AlignUp(g.queries_offset + g.request_slots * (query_floats * sizeof(float)), kPartAlignment);
  g.payloads_offset =
      AlignUp(g.responses_offset + g.response_slots * sizeof(ResponseSlot), kPartAlignment);
  g.ring_bytes = g.payloads_offset + g.response_slots * g.payload_bytes;
  return g;
}

bool IsSound(const RingGeometry& g) {
  if (!std::has_single_bit(g.request_slots) || !std::has_single_bit(g.response_slots)) return false;
  if (g.response_slots < kMaxPendingSelects || g.ring_bytes < sizeof(RingHeader)) return false;
  const uint64_t query_bytes = uint64_t{g.query_floats} * sizeof(float);
  return g.requests_offset >= sizeof(RingHeader) &&
         Fits(g.requests_offset, g.request_slots, sizeof(SelectRequest), g.queries_offset) &&
         Fits(g.queries_offset, g.request_slots, query_bytes, g.responses_offset) &&
         Fits(g.responses_offset, g.response_slots, sizeof(ResponseSlot), g.payloads_offset) &&
         Fits(g.payloads_offset, g.response_slots, g.payload_bytes, g.ring_bytes);
}

uint64_t RowsOffset(uint32_t kv_heads, uint32_t count) {
  return AlignUp(uint64_t{kv_heads} * count * sizeof(int32_t), 64);
}

uint64_t PayloadBytes(uint32_t kv_heads, uint32_t count, uint32_t head_dim) {
  return RowsOffset(kv_heads, count) + uint64_t{kv_heads} * count * 2 * head_dim * sizeof(uint16_t);
}

}  // namespace tailor::wire
