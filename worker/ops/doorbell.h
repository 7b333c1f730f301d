// How a device tells the host that a query is ready, and waits for the rows, without the host
// waiting for the device: words in memory that both see, and two ops of the stream.
// docs/decisions/0006-doorbell.md.
//
// Posts are numbered 1, 2, ... for the life of the memory; no number comes twice, so that nothing
// late can be taken for something new (2^64 of them outlast any machine). Number n uses query slot
// n % kDoorbellSlots.
//
//   device: writes the query of n; rung = n            host: sees rung >= n; reads the query
//   device: waits until answered >= n; reads the rows  host: the rows are there, or never will;
//   answered = n
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"

namespace tailor {

inline constexpr uint64_t kDoorbellSlots = 4;  // a post may be so many ahead of the oldest await

struct DoorbellWords {  // at byte 0 of the memory, zeroed at first
  // The last number whose query is written. The device's release at system scope pairs with the
  // host's acquire.
  alignas(64) std::atomic<uint64_t> rung;
  // The last number that is over. The host's release pairs with the stream's wait; it grows only.
  alignas(64) std::atomic<uint64_t> answered;
};
static_assert(sizeof(DoorbellWords) == 128 && offsetof(DoorbellWords, answered) == 64);
static_assert(std::atomic<uint64_t>::is_always_lock_free && sizeof(std::atomic<uint64_t>) == 8);

// The memory's parts: words, then queries [kDoorbellSlots][query_floats] fp32. Owns nothing.
class DoorbellMemory {
 public:
  static constexpr int64_t kQueriesOffset = 4096;
  static int64_t Bytes(int64_t query_floats) {
    return kQueriesOffset + static_cast<int64_t>(kDoorbellSlots) * query_floats *
                                static_cast<int64_t>(sizeof(float));
  }
  DoorbellMemory() = default;
  DoorbellMemory(std::span<std::byte> memory, int64_t query_floats)
      : data_(memory.data()), query_floats_(query_floats) {}

  DoorbellWords& words() const { return *reinterpret_cast<DoorbellWords*>(data_); }
  int64_t query_floats() const { return query_floats_; }
  float* query(uint64_t number) const {
    return reinterpret_cast<float*>(data_ + kQueriesOffset) +
           static_cast<int64_t>(number % kDoorbellSlots) * query_floats_;
  }

 private:
  std::byte* data_ = nullptr;
  int64_t query_floats_ = 0;
};

// The ops of a stream that ring and wait. One thread, the one that enqueues.
class DoorbellStream {
 public:
  virtual ~DoorbellStream() = default;
  // Zeroed memory on a page's border that ops and threads of this process see at the same address;
  // it lives as long as the stream. Errors: ResourceExhausted.
  virtual absl::StatusOr<std::span<std::byte>> Shared(int64_t bytes) = 0;
  // Enqueues: copies q (device memory, at most query_floats) to the slot of `number`, then rings.
  virtual void Ring(std::span<const float> q, const DoorbellMemory& memory, uint64_t number) = 0;
  // Enqueues: later ops start once answered >= number.
  virtual void Await(const DoorbellMemory& memory, uint64_t number) = 0;
};

// A stream whose ops have ended when the call returns: the CPU's.
class HostDoorbell final : public DoorbellStream {
 public:
  absl::StatusOr<std::span<std::byte>> Shared(int64_t bytes) override;
  void Ring(std::span<const float> q, const DoorbellMemory& memory, uint64_t number) override;
  void Await(const DoorbellMemory& memory, uint64_t number) override;

 private:
  struct Block {
    alignas(4096) std::byte bytes[4096];
  };
  std::vector<std::vector<Block>> shared_;
};

}  // namespace tailor
