// The part of PageStore that keeps sequences: attaching, forking, growing, sealing, giving back.
#include <algorithm>
#include <mutex>
#include <shared_mutex>
#include <span>

#include "common/status.h"
#include "kvstore/page_index.h"
#include "kvstore/page_store.h"

namespace tailor {
namespace {

int64_t PagesFor(int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

absl::Status CheckKey(const SequenceKey& key) {
  if (!key.name.empty() && key.name.size() <= 256 && key.tenant.size() <= 256) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("sequence name has ", key.name.size(), " bytes and tenant ", key.tenant.size(),
                   ", limit 1..256 and 0..256"));
}

}  // namespace

absl::StatusOr<PageStore::SequencePtr> PageStore::Find(LeaseId lease, SequenceHandle handle) const {
  TS_RETURN_IF_ERROR(CheckLease(lease));
  const auto it = sequences_.find(handle.id);
  if (it == sequences_.end() || it->second->generation != handle.generation ||
      it->second->lease != lease) {
    ++counters_.stale_refusals;
    return absl::FailedPreconditionError(absl::StrCat("handle of sequence ", handle.id,
                                                      " generation ", handle.generation,
                                                      " is stale"));
  }
  return it->second;
}

// The worker's word, checked: shared memory is not trusted.
int64_t PageStore::Committed(const Sequence& sequence) const {
  if (sequence.lease == 0) return sequence.committed;
  const int64_t claimed =
      arena_.slot(sequence.slot)->committed_tokens.load(std::memory_order_acquire);
  return std::clamp<int64_t>(claimed, sequence.sealed * kPageTokens,
                             static_cast<int64_t>(sequence.pages.size()) * kPageTokens);
}

int64_t PageStore::AgreeingTokens(const Sequence& sequence,
                                  std::span<const TokenId> history) const {
  const int64_t limit =
      std::min<int64_t>(sequence.committed, static_cast<int64_t>(history.size()));
  for (int64_t i = 0; i < limit; ++i) {
    const TokenId kept =
        sequence.pool->view.Tokens(sequence.pages[i / kPageTokens])[i % kPageTokens];
    if (kept != history[i]) return i;
  }
  return limit;
}

// Drops pages from index `pages` on; the sequence is detached and nobody selects from it.
void PageStore::TruncateToPages(Sequence& sequence, int64_t pages) {
  const std::unique_lock pages_lock(sequence.pages_lock);
  while (static_cast<int64_t>(sequence.pages.size()) > pages) {
    FreePage(*sequence.pool, sequence.pages.back());
    sequence.pages.pop_back();
  }
  if (sequence.sealed > pages) {
    sequence.sealed = pages;
    sequence.exact_pages = std::min(sequence.exact_pages, pages);
    // The chain over what is left.
    sequence.link = PrefixRoot(sequence.pool->spec.model, sequence.pool->spec.policy,
                               sequence.pool->spec.shape, sequence.key.tenant);
    for (const PageId page : sequence.pages) {
      sequence.link =
          PrefixLink(sequence.link, std::span(sequence.pool->view.Tokens(page), kPageTokens));
    }
    sequence.kmax.Extend(sequence.pool->view, sequence.pages);
  }
}

// Ends the lease's hold: the sequence is detached, its open pages past the commit are freed.
void PageStore::Release(Sequence& sequence) {
  sequence.committed = Committed(sequence);
  SequenceSlot* slot = arena_.slot(sequence.slot);
  sequence.budget = slot->budget.exchange(0, std::memory_order_relaxed);
  sequence.budget_doublings = BudgetDoublings(sequence.budget, sequence.committed);
  slot->generation.store(0, std::memory_order_release);
  slot->committed_tokens.store(0, std::memory_order_release);
  free_slots_.push_back(sequence.slot);
  sequence.lease = 0;
  sequence.generation = next_generation_++;
  sequence.last_used = ++uses_;
  TruncateToPages(sequence, PagesFor(sequence.committed));
}

void PageStore::Forget(const SequencePtr& sequence) {
  if (sequence->lease != 0) Release(*sequence);
  TruncateToPages(*sequence, 0);
  by_key_.erase({sequence->pool->id, sequence->key});
  sequences_.erase(sequence->id);
}

absl::StatusOr<uint32_t> PageStore::TakeSlot() {
  if (free_slots_.empty()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("attached sequences: ", kArenaSlots, " of ", kArenaSlots, " slots are taken"));
  }
  const uint32_t slot = free_slots_.back();
  free_slots_.pop_back();
  return slot;
}

absl::StatusOr<StoreGrant> PageStore::Attach(const SequencePtr& sequence, LeaseId lease) {
  TS_ASSIGN_OR_RETURN(const uint32_t index, TakeSlot());
  Sequence& s = *sequence;
  s.slot = index;
  s.lease = lease;
  s.generation = next_generation_++;
  s.last_used = ++uses_;
  SequenceSlot* slot = arena_.slot(index);
  slot->budget.store(PackBudget(s.budget_doublings, 0), std::memory_order_relaxed);
  slot->committed_tokens.store(s.committed, std::memory_order_release);
  slot->generation.store(s.generation, std::memory_order_release);
  return StoreGrant{.grant = {.handle = {s.id, s.generation},
                              .pages = s.pages,
                              .sealed_pages = s.sealed,
                              .committed_tokens = s.committed,
                              .budget_doublings = s.budget_doublings,
                              // Rows in open pages may have been decoded: nobody recorded it.
                              .exact = s.exact_pages * kPageTokens == s.committed},
                    .slot = index};
}

PageStore::SequencePtr PageStore::NewSequence(Pool* pool, const SequenceKey& key) {
  auto sequence = std::make_shared<Sequence>();
  sequence->id = next_id_++;
  sequence->key = key;
  sequence->pool = pool;
  sequence->kmax = RunningKmax(pool->spec.shape);
  sequence->link = PrefixRoot(pool->spec.model, pool->spec.policy, pool->spec.shape, key.tenant);
  sequences_[sequence->id] = sequence;
  by_key_[{pool->id, key}] = sequence->id;
  return sequence;
}

// Takes over the longest sealed prefix of `history`, but never all of it: the last token's logits
// are still to be computed.
void PageStore::SharePrefix(Sequence& sequence, std::span<const TokenId> history) {
  const int64_t limit = (static_cast<int64_t>(history.size()) - 1) / kPageTokens;
  for (int64_t p = 0; p < limit; ++p) {
    const Fingerprint link =
        PrefixLink(sequence.link, history.subspan(p * kPageTokens, kPageTokens));
    const auto page = sequence.pool->prefixes.Find(link);
    if (!page.has_value()) break;
    sequence.pool->pages.AddReference(*page);
    sequence.pages.push_back(*page);
    sequence.link = link;
  }
  sequence.sealed = static_cast<int64_t>(sequence.pages.size());
  sequence.exact_pages = sequence.sealed;
  sequence.committed = sequence.sealed * kPageTokens;
  sequence.kmax.Extend(sequence.pool->view, sequence.pages);
}

absl::StatusOr<StoreGrant> PageStore::OpenSequence(LeaseId lease, uint64_t pool_id,
                                                   const SequenceKey& key,
                                                   std::span<const TokenId> history) {
  TS_RETURN_IF_ERROR(CheckKey(key));
  const std::lock_guard lock(mutex_);
  TS_ASSIGN_OR_RETURN(Pool * pool, FindPool(lease, pool_id));
  const auto it = by_key_.find({pool_id, key});
  if (it == by_key_.end()) {
    if (history.empty()) {
      return absl::NotFoundError(absl::StrCat("sequence ", key.name, " is not kept here"));
    }
    const SequencePtr sequence = NewSequence(pool, key);
    SharePrefix(*sequence, history);
    auto grant = Attach(sequence, lease);
    if (!grant.ok()) Forget(sequence);
    return grant;
  }
  const SequencePtr sequence = sequences_.at(it->second);
  if (sequence->lease != 0) {
    return absl::AlreadyExistsError(
        absl::StrCat("sequence ", key.name, " is attached under lease ", sequence->lease));
  }
  if (!history.empty()) {
    const int64_t agreeing = AgreeingTokens(*sequence, history);
    const int64_t sealed_tokens = sequence->sealed * kPageTokens;
    if (agreeing < sequence->committed && agreeing >= sealed_tokens &&
        agreeing == static_cast<int64_t>(history.size())) {
      // The worker was ahead of who asks: its last rows go, those before stay as they were made.
      TruncateToPages(*sequence, PagesFor(agreeing));
      sequence->committed = agreeing;
      sequence->budget_doublings = BudgetDoublings(sequence->budget, agreeing);
    } else if (agreeing < sequence->committed) {
      const int64_t pages = std::min(agreeing / kPageTokens, sequence->sealed);
      TruncateToPages(*sequence, pages);
      sequence->committed = pages * kPageTokens;
      sequence->budget_doublings = 0;
    }
  }
  return Attach(sequence, lease);
}

absl::StatusOr<StoreGrant> PageStore::ForkSequence(LeaseId lease, SequenceHandle parent_handle,
                                                   const SequenceKey& child_key) {
  TS_RETURN_IF_ERROR(CheckKey(child_key));
  const std::lock_guard lock(mutex_);
  TS_ASSIGN_OR_RETURN(const SequencePtr parent, Find(lease, parent_handle));
  if (parent->key.tenant != child_key.tenant) {
    return absl::PermissionDeniedError("parent and child are of different tenants");
  }
  Pool& pool = *parent->pool;
  if (by_key_.contains({pool.id, child_key})) {
    return absl::AlreadyExistsError(absl::StrCat("sequence ", child_key.name, " exists"));
  }
  const int64_t committed = Committed(*parent);
  const int64_t open = PagesFor(committed) - parent->sealed;
  // Before anything is booked: eviction may forget other sequences, never this attached one.
  TS_ASSIGN_OR_RETURN(const std::vector<PageId> copies, TakePages(pool, open));
  const SequencePtr child = NewSequence(&pool, child_key);
  child->exact_pages = parent->exact_pages;
  child->budget_doublings = BudgetDoublings(
      arena_.slot(parent->slot)->budget.load(std::memory_order_relaxed), committed);
  child->link = parent->link;
  child->sealed = parent->sealed;
  child->committed = committed;
  for (int64_t p = 0; p < parent->sealed; ++p) {
    pool.pages.AddReference(parent->pages[p]);
    child->pages.push_back(parent->pages[p]);
  }
  for (int64_t i = 0; i < open; ++i) {
    const int64_t page = parent->sealed + i;
    CopyOpenPage(pool.view, parent->pages[page], copies[i],
                 std::min<int64_t>(kPageTokens, committed - page * kPageTokens));
    PageHeader* header = pool.view.Header(copies[i]);
    header->state = PageState::kOpen;
    header->owner_sequence = child->id;
    ++header->generation;
    child->pages.push_back(copies[i]);
  }
  child->kmax.Extend(pool.view, std::span(child->pages).first(child->sealed));
  auto grant = Attach(child, lease);
  if (!grant.ok()) Forget(child);
  return grant;
}

absl::StatusOr<std::vector<PageId>> PageStore::ReservePages(LeaseId lease, SequenceHandle handle,
                                                            int64_t count) {
  const std::lock_guard lock(mutex_);
  TS_ASSIGN_OR_RETURN(const SequencePtr sequence, Find(lease, handle));
  Pool& pool = *sequence->pool;
  if (count < 1) {
    return absl::InvalidArgumentError(absl::StrCat("pages: ", count, " asked, limit 1.."));
  }
  TS_ASSIGN_OR_RETURN(std::vector<PageId> pages, TakePages(pool, count));
  // A selection that was posted ahead may be reading the list.
  const std::unique_lock pages_lock(sequence->pages_lock);
  for (const PageId page : pages) {
    PageHeader* header = pool.view.Header(page);
    header->state = PageState::kOpen;
    header->owner_sequence = sequence->id;
    ++header->generation;
    sequence->pages.push_back(page);
  }
  return pages;
}

absl::Status PageStore::SealPages(LeaseId lease, SequenceHandle handle, int64_t count,
                                  PageOrigin origin) {
  const std::lock_guard lock(mutex_);
  TS_ASSIGN_OR_RETURN(const SequencePtr sequence, Find(lease, handle));
  Sequence& s = *sequence;
  // Committed never passes the pages, so this bounds both.
  if (count < 1 || count > Committed(s) / kPageTokens - s.sealed) {
    return absl::FailedPreconditionError(
        absl::StrCat("seal of ", count, " pages after ", s.sealed, ": the sequence has ",
                     s.pages.size(), " pages and ", Committed(s), " committed tokens"));
  }
  const int64_t last = s.sealed + count;
  Pool& pool = *s.pool;
  const std::unique_lock pages_lock(s.pages_lock);
  for (; s.sealed < last; ++s.sealed, ++pool.sealed) {
    const PageId page = s.pages[s.sealed];
    SealPage(pool.view, page);
    pool.view.Header(page)->state = PageState::kSealed;
    s.link = PrefixLink(s.link, std::span(pool.view.Tokens(page), kPageTokens));
    if (origin == PageOrigin::kExactPrefill && s.exact_pages == s.sealed) {
      ++s.exact_pages;
      pool.prefixes.Insert(s.link, page);
    }
  }
  s.kmax.Extend(pool.view, std::span(s.pages).first(s.sealed));
  return absl::OkStatus();
}

absl::Status PageStore::VerifyPages(LeaseId lease, SequenceHandle handle, int64_t first,
                                    int64_t count) {
  std::unique_lock lock(mutex_);
  TS_ASSIGN_OR_RETURN(const SequencePtr sequence, Find(lease, handle));
  std::shared_lock pages_lock(sequence->pages_lock);
  if (first < 0 || count < 0 || first > sequence->sealed || count > sequence->sealed - first) {
    return absl::InvalidArgumentError(absl::StrCat("verification of ", count, " pages from ", first,
                                                   ", the sequence has ", sequence->sealed,
                                                   " sealed"));
  }
  lock.unlock();
  for (int64_t p = first; p < first + count; ++p) {
    const absl::Status verified = VerifyPage(sequence->pool->view, sequence->pages[p]);
    if (verified.ok()) continue;
    const PageId bad = sequence->pages[p];
    pages_lock.unlock();  // mutex_ comes first
    lock.lock();
    ++counters_.checksum_failures;
    // Nobody new shares it. Closed in between, the sequence no longer keeps its pool alive.
    if (sequences_.contains(handle.id)) sequence->pool->prefixes.Forget(bad);
    return verified;
  }
  return absl::OkStatus();
}

absl::Status PageStore::DetachSequence(LeaseId lease, SequenceHandle handle) {
  const std::lock_guard lock(mutex_);
  TS_ASSIGN_OR_RETURN(const SequencePtr sequence, Find(lease, handle));
  Release(*sequence);
  if (sequence->committed == 0) Forget(sequence);
  return absl::OkStatus();
}

absl::Status PageStore::CloseSequence(LeaseId lease, SequenceHandle handle) {
  const std::lock_guard lock(mutex_);
  TS_ASSIGN_OR_RETURN(const SequencePtr sequence, Find(lease, handle));
  Forget(sequence);
  return absl::OkStatus();
}

absl::Status PageStore::RemoveSequence(LeaseId lease, const SequenceKey& key) {
  const std::lock_guard lock(mutex_);
  TS_RETURN_IF_ERROR(CheckLease(lease));
  std::vector<SequencePtr> found;
  for (const auto& [id, sequence] : sequences_) {
    if (sequence->key == key) found.push_back(sequence);
  }
  if (found.empty()) return absl::NotFoundError(absl::StrCat("sequence ", key.name, " not kept"));
  for (const SequencePtr& sequence : found) {
    if (sequence->lease != 0) {
      return absl::FailedPreconditionError(
          absl::StrCat("sequence ", key.name, " is attached under lease ", sequence->lease));
    }
  }
  for (const SequencePtr& sequence : found) Forget(sequence);
  return absl::OkStatus();
}

}  // namespace tailor
