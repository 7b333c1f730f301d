// A PageStore as the doors see it: selections for the shared-memory server, control calls for RPC.
#pragma once

#include <memory>

#include "kvstore/client/kv_control.h"
#include "kvstore/page_store.h"
#include "kvstore/transport/served_store.h"

namespace tailor {

class ServedPageStore final : public ServedStore, public KvControl {
 public:
  explicit ServedPageStore(std::shared_ptr<PageStore> store) : store_(std::move(store)) {}

  uint64_t epoch() const override { return store_->epoch(); }
  ServedArena arena() const override;
  uint64_t AcquireLease() override { return store_->OpenLease(); }
  void DropLease(uint64_t lease) override { store_->DropLease(lease); }
  absl::StatusOr<Shape> Select(uint64_t lease, const SelectCall& call, SelectScratch& scratch,
                               Selection* out) override;

  absl::StatusOr<PoolGrant> OpenPool(LeaseRef lease, const PoolSpec& spec) override;
  absl::StatusOr<SlottedGrant> OpenSequence(LeaseRef lease, uint64_t pool, const SequenceKey& key,
                                            std::span<const TokenId> history) override;
  absl::StatusOr<SlottedGrant> ForkSequence(LeaseRef lease, SequenceHandle parent,
                                            const SequenceKey& child) override;
  absl::StatusOr<std::vector<PageId>> ReservePages(LeaseRef lease, SequenceHandle sequence,
                                                   int64_t count) override;
  absl::Status SealPages(LeaseRef lease, SequenceHandle sequence, int64_t count,
                         PageOrigin origin) override;
  absl::Status VerifyPages(LeaseRef lease, SequenceHandle sequence, int64_t first,
                           int64_t count) override;
  absl::Status DetachSequence(LeaseRef lease, SequenceHandle sequence) override;
  absl::Status CloseSequence(LeaseRef lease, SequenceHandle sequence) override;
  absl::Status RemoveSequence(LeaseRef lease, const SequenceKey& key) override;
  // Also with lease {0, 0}: an operator has none.
  absl::StatusOr<std::vector<ExactOutput>> AttendExactly(LeaseRef lease,
                                                         const ExactCall& call) override;
  absl::StatusOr<StoreStats> Stats(LeaseRef lease) override;

 private:
  absl::Status CheckEpoch(LeaseRef lease) const;

  const std::shared_ptr<PageStore> store_;
};

}  // namespace tailor
