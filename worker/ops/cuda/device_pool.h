// Hands out one block of device memory, taken once at start: a hard budget, no driver call while a
// model runs, every byte accounted by what it is for. Knows addresses only, never follows them. One
// thread at a time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>

#include "absl/status/statusor.h"

namespace tailor::cuda {

class DevicePool {
 public:
  static constexpr int64_t kAlignment = 256;  // of addresses, and of what a request takes
  static constexpr int kKinds = 6;            // MemoryKind

  DevicePool(std::byte* base, int64_t bytes);

  // The smallest hole that fits; of equal ones the lowest. Errors: ResourceExhausted "device
  // memory: N bytes asked, M free of L", and the largest hole when only fragmentation is in the
  // way.
  absl::StatusOr<std::byte*> Allocate(int64_t bytes, int kind);
  // TS_CHECKs that `data` came from Allocate.
  void Free(std::byte* data);

  int64_t capacity() const { return capacity_; }
  int64_t free_bytes() const { return free_bytes_; }
  int64_t asked_bytes() const { return asked_bytes_; }           // before rounding
  int64_t kind_bytes(int kind) const { return by_kind_[kind]; }  // after rounding: sums to taken
  // The most that was taken since StartPeaks, of one kind and in all.
  int64_t peak_kind_bytes(int kind) const { return peak_by_kind_[kind]; }
  int64_t peak_bytes() const { return peak_; }
  void StartPeaks() {
    peak_by_kind_ = by_kind_;
    peak_ = capacity_ - free_bytes_;
  }
  int64_t largest_hole() const;
  // Whether an address is one of the block's.
  bool Contains(const std::byte* data) const;

 private:
  struct Piece {
    int64_t bytes, asked;
    int kind;
  };
  std::byte* base_;
  int64_t capacity_, free_bytes_, asked_bytes_ = 0;
  std::array<int64_t, kKinds> by_kind_ = {}, peak_by_kind_ = {};
  int64_t peak_ = 0;
  std::map<int64_t, int64_t> holes_;  // offset -> bytes; never two that touch
  std::map<int64_t, Piece> pieces_;   // offset -> what is handed out
};

}  // namespace tailor::cuda
