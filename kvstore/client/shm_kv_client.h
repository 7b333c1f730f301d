// A KV store in another process of this host: control by RPC, everything else by shared memory.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "kvstore/arena.h"
#include "kvstore/client/kv_client.h"
#include "kvstore/client/kv_control.h"
#include "kvstore/client/promised_selects.h"
#include "kvstore/client/store_link.h"

namespace tailor {

struct ShmKvClientOptions {
  std::string socket_path;      // of the store's data plane
  uint64_t expected_epoch = 0;  // of the store; 0: whichever runs
  int64_t connect_timeout_ms = 5000;
  // A selection not answered in this time ends as DeadlineExceeded; the store drops it unserved.
  int64_t select_deadline_ms = 2000;
  // Longer: no wake-up (40-70 us) for answers that come soon. Shorter: the core is free, perhaps
  // for the store itself.
  int64_t spin_us = 20;
  int64_t silence_limit_ms = 10'000;  // a store without heartbeat for so long is Unavailable

  absl::Status Validate() const;
};

class ShmKvClient : public KvClient, private PromisedSelects {
 public:
  // The client's life is the lease: destroying it detaches its sequences and frees their open
  // pages. Errors: InvalidArgument (options), and those of StoreLink::Connect.
  static absl::StatusOr<std::unique_ptr<KvClient>> Connect(const ShmKvClientOptions& options,
                                                           std::unique_ptr<KvControl> control);

  absl::StatusOr<PoolView> OpenPool(const PoolSpec& spec) override;
  absl::StatusOr<SequenceGrant> OpenSequence(const SequenceKey& key,
                                             std::span<const TokenId> history) override;
  absl::StatusOr<SequenceGrant> ForkSequence(SequenceHandle parent,
                                             const SequenceKey& child) override;
  absl::StatusOr<std::vector<PageId>> ReservePages(SequenceHandle sequence, int64_t count) override;
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
  PromisedSelects* promised_selects() override { return this; }

 private:
  struct Attached {  // a sequence that this client holds
    uint64_t generation = 0;
    uint32_t slot = 0;
  };
  struct Pending {  // a selection posted and not finished
    uint64_t ticket = 0;
    int64_t deadline_ns = 0;
    int32_t top_k = 0;
  };

  std::vector<std::span<std::byte>> AnswerMemory() const override;
  absl::StatusOr<PromisedSelect> Promise(const SelectCall& call) override;
  absl::Status Post(const PromisedSelect& promise, std::span<const float> q,
                    PostedSelect* posted) override;
  bool Ended(const PostedSelect& posted) const override;
  absl::Status Finish(const PromisedSelect& promise, const PostedSelect& posted) override;

  ShmKvClient(const ShmKvClientOptions& options, std::unique_ptr<KvControl> control,
              std::unique_ptr<StoreLink> link)
      : options_(options), control_(std::move(control)), link_(std::move(link)) {}

  absl::StatusOr<SequenceGrant> Attach(absl::StatusOr<SlottedGrant> granted);
  // Our record of the sequence. Errors: FailedPrecondition when the handle is not the one we hold.
  absl::StatusOr<Attached> Find(SequenceHandle sequence) const;

  std::span<SequenceSlot> SlotTable() const;
  // The slot of a sequence that is still ours. Errors: FailedPrecondition (stale), Unavailable.
  absl::StatusOr<SequenceSlot*> SlotOf(SequenceHandle sequence) const;

  const ShmKvClientOptions options_;
  const std::unique_ptr<KvControl> control_;
  const std::unique_ptr<StoreLink> link_;
  uint64_t pool_id_ = 0;
  std::optional<PoolView> pool_;                     // the one opened last
  std::unordered_map<uint64_t, Attached> attached_;  // by sequence id
  std::deque<Pending> pending_;                      // oldest first
  uint64_t promises_ = 0;                            // so far
};

}  // namespace tailor
