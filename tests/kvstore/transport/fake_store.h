// A store behind the transport that answers by arithmetic: what it was asked can be read off the
// rows.
#pragma once

#include <atomic>
#include <chrono>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

#include "common/shm/mapping.h"
#include "common/status.h"
#include "kvstore/transport/served_store.h"

namespace tailor {

class FakeStore : public ServedStore {
 public:
  static constexpr int kKvHeads = 2, kHeadDim = 16;
  static constexpr int64_t kArenaBytes = 1 << 16;

  explicit FakeStore(uint64_t epoch = 7) : epoch_(epoch) {
    auto fd = CreateSealedMemfd("fake-arena", kArenaBytes);
    TS_CHECK(fd.ok());
    arena_ = std::move(*fd);
  }

  uint64_t epoch() const override { return epoch_; }
  ServedArena arena() const override {
    return {.fd = arena_.get(), .bytes = kArenaBytes, .slot_table_offset = 4096, .slot_count = 8};
  }
  uint64_t AcquireLease() override {
    std::lock_guard lock(mutex_);
    leases_.insert(++last_lease_);
    return last_lease_;
  }
  void DropLease(uint64_t lease) override {
    std::lock_guard lock(mutex_);
    leases_.erase(lease);
  }

  // tokens: 0, 1, ...; rows: K = first query, V = layer. Layer 13 is lost, generation 0 stale.
  absl::StatusOr<Shape> Select(uint64_t, const SelectCall& call, SelectScratch&,
                               Selection* out) override {
    std::this_thread::sleep_for(std::chrono::milliseconds(delay_ms.load()));
    ++selects;
    if (call.layer < 0 || call.params.top_k < 1 || call.params.top_k > kMaxTopK) {
      return absl::InvalidArgumentError("out of range");
    }
    if (call.sequence.generation == 0) return absl::FailedPreconditionError("stale generation");
    if (call.layer == 13) return absl::DataLossError("row check of layer 13 head 0 token 5");
    out->count = call.params.top_k;
    out->tokens.clear();
    out->rows.clear();
    for (int i = 0; i < kKvHeads * out->count; ++i) {
      out->tokens.push_back(i % out->count);
      out->rows.insert(out->rows.end(), kHeadDim, ToBFloat16(call.q[0]));
      out->rows.insert(out->rows.end(), kHeadDim, ToBFloat16(static_cast<float>(call.layer)));
    }
    return Shape{.kv_heads = kKvHeads, .head_dim = kHeadDim};
  }

  size_t leases() const {
    std::lock_guard lock(mutex_);
    return leases_.size();
  }
  std::atomic<int> delay_ms{0};
  std::atomic<int> selects{0};

 private:
  const uint64_t epoch_;
  UniqueFd arena_;
  mutable std::mutex mutex_;
  std::set<uint64_t> leases_;  // guarded by mutex_
  uint64_t last_lease_ = 0;    // guarded by mutex_
};

}  // namespace tailor
