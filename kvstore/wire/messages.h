// Every byte that worker and store exchange besides the arena: docs in format.md, beside this file.
// PODs in the host's byte order (both ends run on one machine). Enum values never change meaning.
// A reader copies a struct into private memory first and validates the copy: the other end may
// change shared memory at any time.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "common/shm/spsc_ring.h"

namespace tailor::wire {

inline constexpr uint32_t kMagic = 0x4b565354;  // "TSVK" in memory
inline constexpr uint16_t kVersion = 2;         // of this file; a reader refuses any other

// --- handshake, over the unix socket ---

struct Hello {  // worker -> store, the first and only message
  uint32_t magic;
  uint16_t version;
  uint16_t reserved0;       // 0
  uint32_t layout_version;  // kLayoutVersion of kvstore/layout.h
  uint32_t page_tokens;     // kPageTokens
  uint64_t expected_epoch;  // the store's boot that the worker means; 0: any
  uint8_t reserved[40];     // 0
};
static_assert(sizeof(Hello) == 64 && std::is_trivially_copyable_v<Hello>);
static_assert(offsetof(Hello, layout_version) == 8 && offsetof(Hello, expected_epoch) == 16);

// Bytes of the ring memory, which holds one RingHeader, the request slots and the payload areas.
struct RingGeometry {
  uint32_t request_slots;     // a power of two
  uint32_t response_slots;    // ticket t is answered in slot t % response_slots
  uint32_t query_floats;      // room of one request's queries
  uint32_t reserved;          // 0
  uint64_t requests_offset;   // SelectRequest [request_slots]
  uint64_t queries_offset;    // float [request_slots][query_floats]
  uint64_t responses_offset;  // ResponseSlot [response_slots]
  uint64_t payloads_offset;   // bytes [response_slots][payload_bytes]
  uint64_t payload_bytes;     // room of one answer's tokens and rows
  uint64_t ring_bytes;        // of the whole ring memory
};
static_assert(sizeof(RingGeometry) == 64 && std::is_trivially_copyable_v<RingGeometry>);
static_assert(offsetof(RingGeometry, requests_offset) == 16);

struct HelloReply {  // store -> worker; with status 0 it brings two descriptors: arena, ring
  uint32_t magic;
  uint16_t version;
  uint16_t reserved0;          // 0
  uint32_t status;             // absl::StatusCode; not 0: refused, and the socket closes
  uint32_t reserved1;          // 0
  uint64_t epoch;              // of this boot of the store
  uint64_t lease;              // names this connection in control calls
  uint64_t arena_bytes;        // of the first descriptor
  uint64_t slot_table_offset;  // bytes from the arena's first: SequenceSlot [slot_count]
  uint64_t slot_count;
  uint8_t reserved2[8];  // 0
  RingGeometry ring;     // of the second descriptor
  char message[128];     // why refused; NUL-terminated
};
static_assert(sizeof(HelloReply) == 256 && std::is_trivially_copyable_v<HelloReply>);
static_assert(offsetof(HelloReply, epoch) == 16 && offsetof(HelloReply, ring) == 64);
static_assert(offsetof(HelloReply, message) == 128);

// --- ring memory ---

struct RingHeader {                                    // at byte 0 of the ring memory
  SpscIndices requests;                                // worker produces, store consumes
  alignas(64) std::atomic<uint32_t> store_heartbeat;   // the store adds 1 every kHeartbeatMs
  alignas(64) std::atomic<uint32_t> worker_heartbeat;  // the worker does the same
};
static_assert(sizeof(RingHeader) == 320);
static_assert(offsetof(RingHeader, store_heartbeat) == 192);
static_assert(offsetof(RingHeader, worker_heartbeat) == 256);
inline constexpr int kHeartbeatMs = 100;

// "Choose rows of this layer." Its queries lie in the queries area, at the ring index of its slot.
struct SelectRequest {
  uint16_t version;   // kVersion
  uint16_t q_floats;  // queries: [q_heads * head_dim] fp32, all finite
  uint32_t check;     // RequestCheck of this struct
  uint64_t ticket;    // 0, 1, 2, ... of this connection, without gaps
  uint64_t epoch;     // of the store, from HelloReply
  uint64_t sequence;  // SequenceHandle
  uint64_t generation;
  int64_t deadline_ns;  // CLOCK_MONOTONIC
  uint32_t layer;
  uint32_t sealed_pages;
  uint16_t channels;  // SelectParams
  uint16_t top_k;
  uint8_t sink_tokens;
  uint8_t group;  // GroupRule
  uint16_t rescore_extra;
};
static_assert(sizeof(SelectRequest) == 64 && std::is_trivially_copyable_v<SelectRequest>);
static_assert(offsetof(SelectRequest, ticket) == 8 && offsetof(SelectRequest, deadline_ns) == 40);
static_assert(offsetof(SelectRequest, layer) == 48 && offsetof(SelectRequest, sink_tokens) == 60);
static_assert(offsetof(SelectRequest, group) == 61 && offsetof(SelectRequest, rescore_extra) == 62);

// Why a request was not served: enough for a worker to act, and for an operator to count.
enum class Refusal : uint32_t {
  kNone = 0,
  kMalformed = 1,   // InvalidArgument: a field out of range, or a wrong check
  kStaleEpoch = 2,  // FailedPrecondition: posted for an earlier boot of the store
  kDeadline = 3,    // DeadlineExceeded: too late when taken up; nothing was done
  kStore = 4,       // the page store refused: status says how (stale generation, DataLoss, ...)
  kTooLarge = 5,    // ResourceExhausted: the answer passes payload_bytes
};

// The answer. Tokens, then rows, lie in the payload area of the same slot.
struct SelectResponse {
  uint32_t status;  // absl::StatusCode
  Refusal refusal;
  uint64_t ticket;
  uint64_t epoch;
  uint32_t count;  // tokens per KV head
  uint32_t kv_heads;
  uint32_t head_dim;
  uint32_t check;        // ResponseCheck of this struct
  uint64_t rows_offset;  // into the payload; tokens are at 0
  uint32_t serve_ns;     // what the store spent on it, from taking it up; saturates
  uint32_t reserved;     // 0
};
static_assert(sizeof(SelectResponse) == 56 && std::is_trivially_copyable_v<SelectResponse>);
static_assert(offsetof(SelectResponse, count) == 24 && offsetof(SelectResponse, rows_offset) == 40);

struct alignas(64) ResponseSlot {
  // Low 32 bits of (ticket + 1) of the answer that lies here; 0 at first. The store's release store
  // pairs with the worker's acquire; it is also the futex word.
  std::atomic<uint32_t> done;
  std::atomic<uint32_t> sleeping;  // not 0: the worker sleeps on `done`
  SelectResponse response;
  char message[192];  // with a status that is not 0; NUL-terminated
};
static_assert(sizeof(ResponseSlot) == 256);
static_assert(offsetof(ResponseSlot, response) == 8 && offsetof(ResponseSlot, message) == 64);

// XXH3-64 of the struct with its `check` field zero, lower half. Finds torn or forged-by-accident
// descriptors; it is no protection against an enemy, which validation is.
uint32_t RequestCheck(const SelectRequest& request);
uint32_t ResponseCheck(const SelectResponse& response);

// Where the parts lie for these sizes; every part starts on a 4096-byte border.
RingGeometry MakeRingGeometry(uint32_t query_floats, uint64_t payload_bytes);
// Whether all parts lie inside ring_bytes without overlapping each other's ends, sizes are powers
// of two where they must be, and nothing overflows. A worker checks it before it maps.
bool IsSound(const RingGeometry& geometry);

// Bytes of an answer: tokens, padded to 64, then rows. Cannot overflow for counts below 2^31.
uint64_t RowsOffset(uint32_t kv_heads, uint32_t count);
uint64_t PayloadBytes(uint32_t kv_heads, uint32_t count, uint32_t head_dim);

}  // namespace tailor::wire
