#include "kvstore/client/local_kv_client.h"

#include "common/status.h"

namespace tailor {

LocalKvClient::LocalKvClient(std::shared_ptr<PageStore> store)
    : store_(std::move(store)), lease_(store_->OpenLease()) {}

LocalKvClient::~LocalKvClient() { store_->DropLease(lease_); }

absl::StatusOr<PoolView> LocalKvClient::OpenPool(const PoolSpec& spec) {
  TS_ASSIGN_OR_RETURN(OpenedPool opened, store_->OpenPool(lease_, spec));
  pool_ = opened.pool;
  return PoolView(store_->arena().base() + opened.arena_offset, std::move(opened.layout));
}

absl::StatusOr<SequenceGrant> LocalKvClient::Remember(absl::StatusOr<StoreGrant> granted) {
  if (!granted.ok()) return granted.status();
  const SequenceHandle handle = granted->grant.handle;
  slots_[handle.id] = {handle.generation, granted->slot};
  return std::move(granted->grant);
}

absl::StatusOr<SequenceGrant> LocalKvClient::OpenSequence(const SequenceKey& key,
                                                          std::span<const TokenId> history) {
  return Remember(store_->OpenSequence(lease_, pool_, key, history));
}

absl::StatusOr<SequenceGrant> LocalKvClient::ForkSequence(SequenceHandle parent,
                                                          const SequenceKey& child) {
  return Remember(store_->ForkSequence(lease_, parent, child));
}

absl::StatusOr<std::vector<PageId>> LocalKvClient::ReservePages(SequenceHandle sequence,
                                                                int64_t count) {
  return store_->ReservePages(lease_, sequence, count);
}

absl::Status LocalKvClient::SealPages(SequenceHandle sequence, int64_t count, PageOrigin origin) {
  return store_->SealPages(lease_, sequence, count, origin);
}

absl::Status LocalKvClient::VerifyPages(SequenceHandle sequence, int64_t first, int64_t count) {
  return store_->VerifyPages(lease_, sequence, first, count);
}

absl::Status LocalKvClient::DetachSequence(SequenceHandle sequence) {
  slots_.erase(sequence.id);
  return store_->DetachSequence(lease_, sequence);
}

absl::Status LocalKvClient::CloseSequence(SequenceHandle sequence) {
  slots_.erase(sequence.id);
  return store_->CloseSequence(lease_, sequence);
}

absl::Status LocalKvClient::RemoveSequence(const SequenceKey& key) {
  return store_->RemoveSequence(lease_, key);
}

absl::StatusOr<std::vector<ExactOutput>> LocalKvClient::AttendExactly(const ExactCall& call) {
  return store_->AttendExactly(lease_, call);
}

absl::StatusOr<StoreStats> LocalKvClient::Stats() { return store_->Stats(); }

absl::StatusOr<SequenceSlot*> LocalKvClient::SlotOf(SequenceHandle sequence) const {
  const auto it = slots_.find(sequence.id);
  if (it == slots_.end() || it->second.first != sequence.generation) {
    return absl::FailedPreconditionError(
        absl::StrCat("handle of sequence ", sequence.id, " is stale"));
  }
  return store_->arena().slot(it->second.second);
}

absl::Status LocalKvClient::SetBudget(SequenceHandle sequence, int32_t doublings,
                                      int64_t from_token) {
  TS_ASSIGN_OR_RETURN(SequenceSlot * slot, SlotOf(sequence));
  slot->budget.store(PackBudget(doublings, from_token), std::memory_order_relaxed);
  return absl::OkStatus();
}

absl::Status LocalKvClient::Commit(SequenceHandle sequence, int64_t tokens) {
  TS_ASSIGN_OR_RETURN(SequenceSlot * slot, SlotOf(sequence));
  slot->committed_tokens.store(tokens, std::memory_order_release);
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> LocalKvClient::PostSelect(const SelectCall& call) {
  if (pending_.size() >= kMaxPendingSelects) {
    return absl::ResourceExhaustedError(
        absl::StrCat("selections: ", kMaxPendingSelects, " are pending already"));
  }
  Pending& pending = pending_.emplace_back();
  pending.ticket = next_ticket_++;
  pending.status = store_->Select(lease_, call, scratch_, &pending.selection).status();
  return pending.ticket;
}

absl::StatusOr<SelectedRows> LocalKvClient::FinishSelect(uint64_t ticket) {
  if (pending_.empty() || pending_.front().ticket != ticket) {
    return absl::InvalidArgumentError(absl::StrCat("ticket ", ticket, " is not the next"));
  }
  const absl::Status status = pending_.front().status;
  taken_ = std::move(pending_.front().selection);
  pending_.pop_front();
  TS_RETURN_IF_ERROR(status);
  return SelectedRows{.count = taken_.count, .tokens = taken_.tokens, .rows = taken_.rows};
}

absl::StatusOr<std::unique_ptr<KvClient>> MakeLocalStore(int64_t arena_bytes) {
  TS_ASSIGN_OR_RETURN(std::shared_ptr<PageStore> store,
                      PageStore::Create({.arena_bytes = arena_bytes}));
  return std::make_unique<LocalKvClient>(std::move(store));
}

}  // namespace tailor
