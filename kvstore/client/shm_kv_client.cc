#include "kvstore/client/shm_kv_client.h"

#include <algorithm>
#include <cstring>

#include "common/shm/futex.h"
#include "common/status.h"

namespace tailor {
namespace {

constexpr int64_t kNsPerMs = 1'000'000;

absl::Status Positive(const char* what, int64_t value, int64_t limit) {
  if (value >= 1 && value <= limit) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(what, " is ", value, ", limit 1 to ", limit));
}

StoreLinkOptions LinkOptionsOf(const ShmKvClientOptions& options) {
  return {.socket_path = options.socket_path,
          .expected_epoch = options.expected_epoch,
          .connect_timeout_ms = options.connect_timeout_ms,
          .spin_us = options.spin_us,
          .silence_limit_ms = options.silence_limit_ms};
}

// The request of a call that was checked against the pool's shape.
wire::SelectRequest RequestOf(const SelectCall& call, int64_t deadline_ns) {
  wire::SelectRequest request{};
  request.sequence = call.sequence.id;
  request.generation = call.sequence.generation;
  request.deadline_ns = deadline_ns;
  request.layer = static_cast<uint32_t>(call.layer);
  request.sealed_pages = static_cast<uint32_t>(call.sealed_pages);
  request.channels = static_cast<uint16_t>(call.params.channels);
  request.top_k = static_cast<uint16_t>(call.params.top_k);
  request.sink_tokens = static_cast<uint8_t>(call.params.sink_tokens);
  request.group = static_cast<uint8_t>(call.params.group);
  request.rescore_extra = static_cast<uint16_t>(call.params.rescore_extra);
  return request;
}

// What the reply said of the arena must agree with its header, and the slot table lie inside.
absl::Status CheckArena(const StoreLink& link) {
  const auto bytes = static_cast<uint64_t>(link.arena_bytes());
  ArenaHeader header;
  if (bytes < sizeof(header)) return absl::FailedPreconditionError("arena has no header");
  std::memcpy(&header, link.arena(), sizeof(header));
  if (header.magic != kArenaMagic || header.version != kArenaVersion ||
      header.epoch != link.lease().epoch || header.bytes != bytes) {
    return absl::FailedPreconditionError("arena header does not agree with the store's reply");
  }
  const uint64_t table = link.slot_table_offset();
  if (table % alignof(SequenceSlot) != 0 || table > bytes ||
      link.slot_count() > (bytes - table) / sizeof(SequenceSlot)) {
    return absl::FailedPreconditionError("slot table passes the arena");
  }
  return absl::OkStatus();
}

// What the wire cannot carry; the rest is the store's to refuse.
absl::Status CheckCall(const SelectCall& call, const PoolLayout& layout) {
  TS_RETURN_IF_ERROR(ValidateSelectParams(call.params, layout.shape()));
  if (call.layer < 0 || call.layer >= layout.shape().layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("selection in layer ", call.layer, ", pool has ", layout.shape().layers));
  }
  if (call.sealed_pages < 0 || call.sealed_pages > layout.pages()) {
    return absl::InvalidArgumentError(
        absl::StrCat("selection over ", call.sealed_pages, " pages, pool has ", layout.pages()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ShmKvClientOptions::Validate() const {
  constexpr int64_t kHourMs = 3'600'000;
  TS_RETURN_IF_ERROR(Positive("connect_timeout_ms", connect_timeout_ms, kHourMs));
  TS_RETURN_IF_ERROR(Positive("select_deadline_ms", select_deadline_ms, kHourMs));
  TS_RETURN_IF_ERROR(Positive("silence_limit_ms", silence_limit_ms, kHourMs));
  return Positive("spin_us + 1", spin_us + 1, 1'000'001);
}

absl::StatusOr<std::unique_ptr<KvClient>> ShmKvClient::Connect(const ShmKvClientOptions& options,
                                                               std::unique_ptr<KvControl> control) {
  TS_RETURN_IF_ERROR(options.Validate());
  TS_ASSIGN_OR_RETURN(std::unique_ptr<StoreLink> link, StoreLink::Connect(LinkOptionsOf(options)));
  TS_RETURN_IF_ERROR(CheckArena(*link));
  return std::unique_ptr<KvClient>(new ShmKvClient(options, std::move(control), std::move(link)));
}

absl::StatusOr<PoolView> ShmKvClient::OpenPool(const PoolSpec& spec) {
  TS_ASSIGN_OR_RETURN(const PoolGrant grant, control_->OpenPool(link_->lease(), spec));
  TS_ASSIGN_OR_RETURN(PoolLayout layout, PoolLayout::Make(spec.shape, grant.pages));
  const auto arena_bytes = static_cast<uint64_t>(link_->arena_bytes());
  const auto pool_bytes = static_cast<uint64_t>(layout.bytes());
  if (grant.arena_offset > arena_bytes || pool_bytes > arena_bytes - grant.arena_offset) {
    return absl::InternalError(absl::StrCat("granted pool of ", pool_bytes, " bytes at ",
                                            grant.arena_offset, ", arena has ", arena_bytes));
  }
  pool_id_ = grant.pool;
  pool_.emplace(link_->arena() + grant.arena_offset, std::move(layout));
  return *pool_;
}

absl::StatusOr<SequenceGrant> ShmKvClient::Attach(absl::StatusOr<SlottedGrant> granted) {
  if (!granted.ok()) return granted.status();
  if (granted->slot >= link_->slot_count()) {
    return absl::InternalError(
        absl::StrCat("granted slot ", granted->slot, ", arena has ", link_->slot_count()));
  }
  for (const PageId page : granted->grant.pages) {
    if (Index(page) >= pool_->layout().pages()) {
      return absl::InternalError(
          absl::StrCat("granted page ", Index(page), ", pool has ", pool_->layout().pages()));
    }
  }
  attached_[granted->grant.handle.id] = {.generation = granted->grant.handle.generation,
                                         .slot = granted->slot};
  return std::move(granted->grant);
}

absl::StatusOr<ShmKvClient::Attached> ShmKvClient::Find(SequenceHandle sequence) const {
  const auto found = attached_.find(sequence.id);
  if (found == attached_.end() || found->second.generation != sequence.generation) {
    return absl::FailedPreconditionError(absl::StrCat("sequence ", sequence.id, " generation ",
                                                      sequence.generation, " is not attached"));
  }
  return found->second;
}

absl::StatusOr<SequenceGrant> ShmKvClient::OpenSequence(const SequenceKey& key,
                                                        std::span<const TokenId> history) {
  if (!pool_.has_value()) return absl::FailedPreconditionError("no pool is open");
  return Attach(control_->OpenSequence(link_->lease(), pool_id_, key, history));
}

absl::StatusOr<SequenceGrant> ShmKvClient::ForkSequence(SequenceHandle parent,
                                                        const SequenceKey& child) {
  if (!pool_.has_value()) return absl::FailedPreconditionError("no pool is open");
  return Attach(control_->ForkSequence(link_->lease(), parent, child));
}

absl::StatusOr<std::vector<PageId>> ShmKvClient::ReservePages(SequenceHandle sequence,
                                                              int64_t count) {
  return control_->ReservePages(link_->lease(), sequence, count);
}

absl::Status ShmKvClient::SealPages(SequenceHandle sequence, int64_t count, PageOrigin origin) {
  return control_->SealPages(link_->lease(), sequence, count, origin);
}

absl::Status ShmKvClient::VerifyPages(SequenceHandle sequence, int64_t first, int64_t count) {
  return control_->VerifyPages(link_->lease(), sequence, first, count);
}

absl::Status ShmKvClient::DetachSequence(SequenceHandle sequence) {
  TS_RETURN_IF_ERROR(control_->DetachSequence(link_->lease(), sequence));
  attached_.erase(sequence.id);
  return absl::OkStatus();
}

absl::Status ShmKvClient::CloseSequence(SequenceHandle sequence) {
  TS_RETURN_IF_ERROR(control_->CloseSequence(link_->lease(), sequence));
  attached_.erase(sequence.id);
  return absl::OkStatus();
}

absl::Status ShmKvClient::RemoveSequence(const SequenceKey& key) {
  return control_->RemoveSequence(link_->lease(), key);
}

absl::StatusOr<std::vector<ExactOutput>> ShmKvClient::AttendExactly(const ExactCall& call) {
  TS_RETURN_IF_ERROR(Find(call.sequence).status());
  TS_ASSIGN_OR_RETURN(std::vector<ExactOutput> answers,
                      control_->AttendExactly(link_->lease(), call));
  if (answers.size() != call.queries.size()) {
    return absl::InternalError(
        absl::StrCat("store answered ", answers.size(), " exact queries of ", call.queries.size()));
  }
  for (size_t i = 0; i < answers.size(); ++i) {
    if (answers[i].out.size() == call.queries[i].q.size()) continue;
    return absl::InternalError(absl::StrCat("store answered ", answers[i].out.size(),
                                            " floats to a query of ", call.queries[i].q.size()));
  }
  return answers;
}

absl::StatusOr<StoreStats> ShmKvClient::Stats() { return control_->Stats(link_->lease()); }

absl::StatusOr<SequenceSlot*> ShmKvClient::SlotOf(SequenceHandle sequence) const {
  TS_ASSIGN_OR_RETURN(const Attached attached, Find(sequence));
  TS_RETURN_IF_ERROR(link_->Health());
  SequenceSlot& slot = SlotTable()[attached.slot];
  // The store takes the slot back when the sequence ends or is detached.
  if (slot.generation.load(std::memory_order_acquire) == sequence.generation) return &slot;
  return absl::FailedPreconditionError(
      absl::StrCat("handle of sequence ", sequence.id, " is stale"));
}

absl::Status ShmKvClient::SetBudget(SequenceHandle sequence, int32_t doublings,
                                    int64_t from_token) {
  TS_ASSIGN_OR_RETURN(SequenceSlot * slot, SlotOf(sequence));
  slot->budget.store(PackBudget(doublings, from_token), std::memory_order_relaxed);
  return absl::OkStatus();
}

absl::Status ShmKvClient::Commit(SequenceHandle sequence, int64_t tokens) {
  if (tokens < 0) return absl::InvalidArgumentError(absl::StrCat("commit of ", tokens, " tokens"));
  TS_ASSIGN_OR_RETURN(SequenceSlot * slot, SlotOf(sequence));
  slot->committed_tokens.store(tokens,
                               std::memory_order_release);  // pairs with the store's acquire
  return absl::OkStatus();
}

std::span<SequenceSlot> ShmKvClient::SlotTable() const {
  return {reinterpret_cast<SequenceSlot*>(link_->arena() + link_->slot_table_offset()),
          link_->slot_count()};
}

absl::StatusOr<uint64_t> ShmKvClient::PostSelect(const SelectCall& call) {
  if (!pool_.has_value()) return absl::FailedPreconditionError("no pool is open");
  if (promises_ > 0) {
    return absl::FailedPreconditionError("selections of this client are promised to a device");
  }
  TS_RETURN_IF_ERROR(CheckCall(call, pool_->layout()));
  if (pending_.size() >= kMaxPendingSelects) {
    return absl::ResourceExhaustedError(
        absl::StrCat("selections pending: ", pending_.size(), ", limit ", kMaxPendingSelects));
  }
  const int64_t deadline_ns = MonotonicNowNs() + options_.select_deadline_ms * kNsPerMs;
  TS_ASSIGN_OR_RETURN(const uint64_t ticket, link_->Post(RequestOf(call, deadline_ns), call.q));
  pending_.push_back({.ticket = ticket, .deadline_ns = deadline_ns, .top_k = call.params.top_k});
  return ticket;
}

absl::StatusOr<SelectedRows> ShmKvClient::FinishSelect(uint64_t ticket) {
  if (pending_.empty() || pending_.front().ticket != ticket) {
    return absl::InvalidArgumentError(
        absl::StrCat("selection ", ticket, " is not the oldest pending one"));
  }
  const Pending pending = pending_.front();
  pending_.pop_front();
  TS_ASSIGN_OR_RETURN(const RawAnswer answer, link_->Wait(ticket, pending.deadline_ns));
  const PoolShape& shape = pool_->shape();
  if (static_cast<int64_t>(answer.response.kv_heads) != shape.kv_heads ||
      static_cast<int64_t>(answer.response.head_dim) != shape.head_dim ||
      static_cast<int64_t>(answer.response.count) > pending.top_k) {
    return absl::DataLossError(absl::StrCat("answer to selection ", ticket, " has ",
                                            answer.response.count, " rows of another shape"));
  }
  return SelectedRows{.count = static_cast<int32_t>(answer.response.count),
                      .tokens = answer.tokens,
                      .rows = answer.rows};
}

std::vector<std::span<std::byte>> ShmKvClient::AnswerMemory() const {
  std::vector<std::span<std::byte>> memory;
  if (!pool_.has_value()) return memory;
  const auto kv_heads = static_cast<uint32_t>(pool_->shape().kv_heads);
  const auto head_dim = static_cast<uint32_t>(pool_->shape().head_dim);
  const uint64_t bytes = wire::PayloadBytes(kv_heads, kMaxTopK, head_dim);
  for (uint32_t slot = 0; slot < link_->response_slots(); ++slot) {
    const std::span<std::byte> payload = link_->Payload(slot);
    memory.push_back(payload.first(std::min<uint64_t>(payload.size(), bytes)));
  }
  return memory;
}

absl::StatusOr<PromisedSelect> ShmKvClient::Promise(const SelectCall& call) {
  if (!pool_.has_value()) return absl::FailedPreconditionError("no pool is open");
  TS_RETURN_IF_ERROR(CheckCall(call, pool_->layout()));
  const int64_t candidates =
      std::max<int64_t>(0, call.sealed_pages * kPageTokens - call.params.sink_tokens);
  const auto count = static_cast<uint32_t>(std::min<int64_t>(call.params.top_k, candidates));
  const auto kv_heads = static_cast<uint32_t>(pool_->shape().kv_heads);
  const auto head_dim = static_cast<uint32_t>(pool_->shape().head_dim);
  PromisedSelect promise = {.call = call,
                            .slot = static_cast<uint32_t>(promises_ % link_->response_slots()),
                            .answer = {}};
  promise.call.q = {};
  const std::span<std::byte> payload = link_->Payload(promise.slot);
  if (wire::PayloadBytes(kv_heads, count, head_dim) > payload.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "selection of ", count, " rows a head, the slot has ", payload.size(), " bytes"));
  }
  const uint64_t tokens = uint64_t{kv_heads} * count;
  const std::byte* rows = payload.data() + wire::RowsOffset(kv_heads, count);
  promise.answer = {.count = static_cast<int32_t>(count),
                    .tokens = {reinterpret_cast<const int32_t*>(payload.data()), tokens},
                    .rows = {reinterpret_cast<const BFloat16*>(rows), tokens * 2 * head_dim}};
  ++promises_;
  return promise;
}

absl::Status ShmKvClient::Post(const PromisedSelect& promise, std::span<const float> q,
                               PostedSelect* posted) {
  const int64_t now_ns = MonotonicNowNs();
  if (posted->deadline_ns == 0) {
    posted->deadline_ns = now_ns + options_.select_deadline_ms * kNsPerMs;
  } else if (now_ns >= posted->deadline_ns) {
    return absl::DeadlineExceededError("the KV store still owes the answers of earlier selections");
  }
  TS_ASSIGN_OR_RETURN(
      posted->ticket,
      link_->PostInto(promise.slot, RequestOf(promise.call, posted->deadline_ns), q));
  return absl::OkStatus();
}

bool ShmKvClient::Ended(const PostedSelect& posted) const {
  return link_->Answered(posted.ticket) || MonotonicNowNs() >= posted.deadline_ns ||
         !link_->Health().ok();
}

absl::Status ShmKvClient::Finish(const PromisedSelect& promise, const PostedSelect& posted) {
  if (!link_->Answered(posted.ticket)) TS_RETURN_IF_ERROR(link_->Health());
  // Until now: whoever releases streams waits for nobody.
  TS_ASSIGN_OR_RETURN(const RawAnswer answer, link_->Wait(posted.ticket, MonotonicNowNs()));
  // What a device has been told to read must be what the store wrote: no more, no other shape.
  const bool as_promised = answer.response.count == static_cast<uint32_t>(promise.answer.count) &&
                           answer.tokens.data() == promise.answer.tokens.data() &&
                           answer.tokens.size() == promise.answer.tokens.size() &&
                           answer.rows.data() == promise.answer.rows.data() &&
                           answer.rows.size() == promise.answer.rows.size();
  if (as_promised) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("answer to selection ", posted.ticket, " has ",
                                          answer.response.count, " rows a head, promised were ",
                                          promise.answer.count));
}

}  // namespace tailor
