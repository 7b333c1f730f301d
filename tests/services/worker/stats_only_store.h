// A KvClient that answers Stats from a list, and nothing else.
#pragma once

#include <algorithm>
#include <atomic>
#include <utility>
#include <vector>

#include "kvstore/client/kv_client.h"

namespace tailor {

class StatsOnlyStore final : public KvClient {
 public:
  explicit StatsOnlyStore(std::vector<absl::StatusOr<uint64_t>> epochs)
      : epochs_(std::move(epochs)) {}

  // The last answer repeats.
  absl::StatusOr<StoreStats> Stats() override {
    const size_t n = std::min<size_t>(asked_++, epochs_.size() - 1);
    if (!epochs_[n].ok()) return epochs_[n].status();
    StoreStats stats;
    stats.epoch = *epochs_[n];
    return stats;
  }
  bool answered_all() const { return asked_ >= epochs_.size() + 3; }

  absl::StatusOr<PoolView> OpenPool(const PoolSpec&) override { return No(); }
  absl::StatusOr<SequenceGrant> OpenSequence(const SequenceKey&,
                                             std::span<const TokenId>) override {
    return No();
  }
  absl::StatusOr<SequenceGrant> ForkSequence(SequenceHandle, const SequenceKey&) override {
    return No();
  }
  absl::StatusOr<std::vector<PageId>> ReservePages(SequenceHandle, int64_t) override {
    return No();
  }
  absl::Status SealPages(SequenceHandle, int64_t, PageOrigin) override { return No(); }
  absl::Status VerifyPages(SequenceHandle, int64_t, int64_t) override { return No(); }
  absl::Status DetachSequence(SequenceHandle) override { return No(); }
  absl::Status CloseSequence(SequenceHandle) override { return No(); }
  absl::Status RemoveSequence(const SequenceKey&) override { return No(); }
  absl::StatusOr<std::vector<ExactOutput>> AttendExactly(const ExactCall&) override {
    return No();
  }
  absl::Status SetBudget(SequenceHandle, int32_t, int64_t) override { return No(); }
  absl::Status Commit(SequenceHandle, int64_t) override { return No(); }
  absl::StatusOr<uint64_t> PostSelect(const SelectCall&) override { return No(); }
  absl::StatusOr<SelectedRows> FinishSelect(uint64_t) override { return No(); }

 private:
  static absl::Status No() { return absl::UnimplementedError("only Stats"); }
  const std::vector<absl::StatusOr<uint64_t>> epochs_;
  std::atomic<size_t> asked_ = 0;
};

}  // namespace tailor
