#include "kvstore/transport/served_page_store.h"

#include <utility>

#include "common/status.h"

namespace tailor {
namespace {

absl::StatusOr<SlottedGrant> Slotted(absl::StatusOr<StoreGrant> granted) {
  if (!granted.ok()) return granted.status();
  return SlottedGrant{.grant = std::move(granted->grant), .slot = granted->slot};
}

}  // namespace

ServedArena ServedPageStore::arena() const {
  const Arena& arena = store_->arena();
  return {.fd = arena.fd(),
          .bytes = arena.bytes(),
          .slot_table_offset = arena.slot_table_offset(),
          .slot_count = kArenaSlots};
}

absl::StatusOr<ServedStore::Shape> ServedPageStore::Select(uint64_t lease, const SelectCall& call,
                                                           SelectScratch& scratch, Selection* out) {
  TS_ASSIGN_OR_RETURN(const PoolShape shape, store_->Select(lease, call, scratch, out));
  return Shape{.kv_heads = shape.kv_heads, .head_dim = shape.head_dim};
}

absl::Status ServedPageStore::CheckEpoch(LeaseRef lease) const {
  if (lease.epoch == store_->epoch()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("call is for store epoch ", lease.epoch, ", this is ", store_->epoch()));
}

absl::StatusOr<PoolGrant> ServedPageStore::OpenPool(LeaseRef lease, const PoolSpec& spec) {
  TS_RETURN_IF_ERROR(CheckEpoch(lease));
  TS_ASSIGN_OR_RETURN(const OpenedPool opened, store_->OpenPool(lease.lease, spec));
  return PoolGrant{
      .pool = opened.pool, .arena_offset = opened.arena_offset, .pages = opened.layout.pages()};
}

absl::StatusOr<SlottedGrant> ServedPageStore::OpenSequence(LeaseRef lease, uint64_t pool,
                                                           const SequenceKey& key,
                                                           std::span<const TokenId> history) {
  TS_RETURN_IF_ERROR(CheckEpoch(lease));
  return Slotted(store_->OpenSequence(lease.lease, pool, key, history));
}

absl::StatusOr<SlottedGrant> ServedPageStore::ForkSequence(LeaseRef lease, SequenceHandle parent,
                                                           const SequenceKey& child) {
  TS_RETURN_IF_ERROR(CheckEpoch(lease));
  return Slotted(store_->ForkSequence(lease.lease, parent, child));
}

absl::StatusOr<std::vector<PageId>> ServedPageStore::ReservePages(LeaseRef lease,
                                                                  SequenceHandle sequence,
                                                                  int64_t count) {
  TS_RETURN_IF_ERROR(CheckEpoch(lease));
  return store_->ReservePages(lease.lease, sequence, count);
}

absl::Status ServedPageStore::SealPages(LeaseRef lease, SequenceHandle sequence, int64_t count,
                                        PageOrigin origin) {
  TS_RETURN_IF_ERROR(CheckEpoch(lease));
  return store_->SealPages(lease.lease, sequence, count, origin);
}

absl::Status ServedPageStore::VerifyPages(LeaseRef lease, SequenceHandle sequence, int64_t first,
                                          int64_t count) {
  TS_RETURN_IF_ERROR(CheckEpoch(lease));
  return store_->VerifyPages(lease.lease, sequence, first, count);
}

absl::Status ServedPageStore::DetachSequence(LeaseRef lease, SequenceHandle sequence) {
  TS_RETURN_IF_ERROR(CheckEpoch(lease));
  return store_->DetachSequence(lease.lease, sequence);
}

absl::Status ServedPageStore::CloseSequence(LeaseRef lease, SequenceHandle sequence) {
  TS_RETURN_IF_ERROR(CheckEpoch(lease));
  return store_->CloseSequence(lease.lease, sequence);
}

absl::Status ServedPageStore::RemoveSequence(LeaseRef lease, const SequenceKey& key) {
  TS_RETURN_IF_ERROR(CheckEpoch(lease));
  return store_->RemoveSequence(lease.lease, key);
}

absl::StatusOr<std::vector<ExactOutput>> ServedPageStore::AttendExactly(LeaseRef lease,
                                                                        const ExactCall& call) {
  TS_RETURN_IF_ERROR(CheckEpoch(lease));
  return store_->AttendExactly(lease.lease, call);
}

absl::StatusOr<StoreStats> ServedPageStore::Stats(LeaseRef lease) {
  const bool operator_call = lease.epoch == 0 && lease.lease == 0;
  if (!operator_call) TS_RETURN_IF_ERROR(CheckEpoch(lease));
  return store_->Stats();
}

}  // namespace tailor
