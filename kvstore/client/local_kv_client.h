// The store in this process: tests, benchmarks, and a worker that runs alone. Same semantics as over
// shared memory, a lease of its own.
#pragma once

#include <deque>
#include <map>
#include <memory>

#include "kvstore/client/kv_client.h"
#include "kvstore/page_store.h"

namespace tailor {

class LocalKvClient final : public KvClient {
 public:
  explicit LocalKvClient(std::shared_ptr<PageStore> store);
  ~LocalKvClient() override;  // drops the lease

  absl::StatusOr<PoolView> OpenPool(const PoolSpec& spec) override;
  absl::StatusOr<SequenceGrant> OpenSequence(const SequenceKey& key,
                                             std::span<const TokenId> history) override;
  absl::StatusOr<SequenceGrant> ForkSequence(SequenceHandle parent,
                                             const SequenceKey& child) override;
  absl::StatusOr<std::vector<PageId>> ReservePages(SequenceHandle sequence,
                                                   int64_t count) override;
  absl::Status SealPages(SequenceHandle sequence, int64_t count, PageOrigin origin) override;
  absl::Status VerifyPages(SequenceHandle sequence, int64_t first, int64_t count) override;
  absl::Status DetachSequence(SequenceHandle sequence) override;
  absl::Status CloseSequence(SequenceHandle sequence) override;
  absl::Status RemoveSequence(const SequenceKey& key) override;
  absl::StatusOr<std::vector<ExactOutput>> AttendExactly(const ExactCall& call) override;
  absl::StatusOr<StoreStats> Stats() override;
  absl::Status SetBudget(SequenceHandle sequence, int32_t doublings, int64_t from_token) override;
  absl::Status Commit(SequenceHandle sequence, int64_t tokens) override;
  absl::StatusOr<uint64_t> PostSelect(const SelectCall& call) override;
  absl::StatusOr<SelectedRows> FinishSelect(uint64_t ticket) override;

 private:
  absl::StatusOr<SequenceSlot*> SlotOf(SequenceHandle sequence) const;
  struct Pending {
    uint64_t ticket;
    absl::Status status;
    Selection selection;
  };
  absl::StatusOr<SequenceGrant> Remember(absl::StatusOr<StoreGrant> granted);

  std::shared_ptr<PageStore> store_;
  const PageStore::LeaseId lease_;
  uint64_t pool_ = 0;
  std::map<uint64_t, std::pair<uint64_t, uint32_t>> slots_;  // id -> (generation, slot)
  SelectScratch scratch_;
  std::deque<Pending> pending_;
  Selection taken_;
  uint64_t next_ticket_ = 1;
};

// A client of a new store of its own. Errors: those of PageStore::Create.
absl::StatusOr<std::unique_ptr<KvClient>> MakeLocalStore(int64_t arena_bytes);

}  // namespace tailor
