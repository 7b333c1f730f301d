// A KvControl that passes every call to one that is owned elsewhere: the control plane without RPC.
#pragma once

#include <utility>

#include "kvstore/client/kv_control.h"

namespace tailor {

class ForwardingControl : public KvControl {
 public:
  explicit ForwardingControl(KvControl* to) : to_(to) {}

  absl::StatusOr<PoolGrant> OpenPool(LeaseRef lease, const PoolSpec& spec) override {
    return to_->OpenPool(lease, spec);
  }
  absl::StatusOr<SlottedGrant> OpenSequence(LeaseRef lease, uint64_t pool, const SequenceKey& key,
                                            std::span<const TokenId> history) override {
    return to_->OpenSequence(lease, pool, key, history);
  }
  absl::StatusOr<SlottedGrant> ForkSequence(LeaseRef lease, SequenceHandle parent,
                                            const SequenceKey& child) override {
    return to_->ForkSequence(lease, parent, child);
  }
  absl::StatusOr<std::vector<PageId>> ReservePages(LeaseRef lease, SequenceHandle sequence,
                                                   int64_t count) override {
    return to_->ReservePages(lease, sequence, count);
  }
  absl::Status SealPages(LeaseRef lease, SequenceHandle sequence, int64_t count,
                         PageOrigin origin) override {
    return to_->SealPages(lease, sequence, count, origin);
  }
  absl::Status VerifyPages(LeaseRef lease, SequenceHandle sequence, int64_t first,
                           int64_t count) override {
    return to_->VerifyPages(lease, sequence, first, count);
  }
  absl::Status DetachSequence(LeaseRef lease, SequenceHandle sequence) override {
    return to_->DetachSequence(lease, sequence);
  }
  absl::Status CloseSequence(LeaseRef lease, SequenceHandle sequence) override {
    return to_->CloseSequence(lease, sequence);
  }
  absl::Status RemoveSequence(LeaseRef lease, const SequenceKey& key) override {
    return to_->RemoveSequence(lease, key);
  }
  absl::StatusOr<std::vector<ExactOutput>> AttendExactly(LeaseRef lease,
                                                         const ExactCall& call) override {
    return to_->AttendExactly(lease, call);
  }
  absl::StatusOr<StoreStats> Stats(LeaseRef lease) override { return to_->Stats(lease); }

 private:
  KvControl* const to_;
};

}  // namespace tailor
