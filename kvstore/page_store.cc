#include "kvstore/page_store.h"

#include <algorithm>
#include <cstring>
#include <random>

#include "common/status.h"
#include "kvstore/eviction.h"
#include "kvstore/page_index.h"

namespace tailor {
namespace {

int64_t PagesFor(int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

uint64_t RandomEpoch() {
  std::random_device device;
  const uint64_t epoch = (static_cast<uint64_t>(device()) << 32) | device();
  return epoch != 0 ? epoch : 1;
}

absl::Status CheckKey(const SequenceKey& key) {
  if (!key.name.empty() && key.name.size() <= 256 && key.tenant.size() <= 256) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("sequence name has ", key.name.size(), " bytes and tenant ", key.tenant.size(),
                   ", limit 1..256 and 0..256"));
}

}  // namespace

absl::StatusOr<std::shared_ptr<PageStore>> PageStore::Create(const PageStoreOptions& options) {
  const uint64_t epoch = RandomEpoch();
  TS_ASSIGN_OR_RETURN(Arena arena, Arena::Create(options.arena_bytes, epoch));
  std::shared_ptr<PageStore> store(new PageStore(std::move(arena), epoch));
  for (uint32_t slot = kArenaSlots; slot > 0; --slot) store->free_slots_.push_back(slot - 1);
  return store;
}

// --- leases --------------------------------------------------------------------------------------

PageStore::LeaseId PageStore::OpenLease() {
  const std::lock_guard lock(mutex_);
  leases_.insert(next_lease_);
  return next_lease_++;
}

absl::Status PageStore::CheckLease(LeaseId lease) const {
  if (leases_.contains(lease)) return absl::OkStatus();
  ++counters_.stale_refusals;
  return absl::FailedPreconditionError(absl::StrCat("lease ", lease, " is not held"));
}

void PageStore::DropLease(LeaseId lease) {
  const std::lock_guard lock(mutex_);
  if (leases_.erase(lease) == 0) return;
  std::vector<SequencePtr> held;
  for (const auto& [id, sequence] : sequences_) {
    if (sequence->lease == lease) held.push_back(sequence);
  }
  for (const SequencePtr& sequence : held) {
    Release(*sequence);
    if (sequence->committed == 0) Forget(sequence);
  }
  for (const auto& [id, pool] : pools_) pool->users.erase(lease);
}

// --- pools ---------------------------------------------------------------------------------------

int64_t PageStore::LargestGap(uint64_t* offset) const {
  std::vector<std::pair<uint64_t, uint64_t>> taken;  // [first, last) of each pool
  for (const auto& [id, pool] : pools_) {
    taken.emplace_back(pool->arena_offset,
                       pool->arena_offset + static_cast<uint64_t>(pool->view.layout().bytes()));
  }
  std::sort(taken.begin(), taken.end());
  taken.emplace_back(arena_.bytes(), arena_.bytes());
  auto free_from = static_cast<uint64_t>(arena_.pools_offset());
  uint64_t largest = 0;
  for (const auto& [first, last] : taken) {
    if (first - free_from > largest) {
      largest = first - free_from;
      *offset = free_from;
    }
    free_from = last;
  }
  return static_cast<int64_t>(largest);
}

void PageStore::DropUnusedPools() {
  std::set<uint64_t> used;
  for (const auto& [id, sequence] : sequences_) used.insert(sequence->pool->id);
  std::erase_if(pools_, [&](const auto& entry) {
    return !used.contains(entry.first) && entry.second->users.empty();
  });
}

absl::StatusOr<OpenedPool> PageStore::OpenPool(LeaseId lease, const PoolSpec& spec) {
  TS_RETURN_IF_ERROR(spec.shape.Validate());
  const std::lock_guard lock(mutex_);
  TS_RETURN_IF_ERROR(CheckLease(lease));
  for (const auto& [id, pool] : pools_) {
    if (pool->spec.model != spec.model || pool->spec.policy != spec.policy) continue;
    if (pool->spec.shape != spec.shape) {
      return absl::FailedPreconditionError("a pool of this model and policy has another shape");
    }
    pool->users.insert(lease);
    return OpenedPool{id, pool->arena_offset, pool->view.layout()};
  }
  DropUnusedPools();
  uint64_t offset = 0;
  int64_t room = LargestGap(&offset);
  if (spec.max_bytes > 0) room = std::min(room, spec.max_bytes);
  TS_ASSIGN_OR_RETURN(const int64_t pages, PoolLayout::PagesThatFit(spec.shape, room));
  if (pages == 0) {
    TS_ASSIGN_OR_RETURN(const PoolLayout one, PoolLayout::Make(spec.shape, 1));
    return absl::ResourceExhaustedError(absl::StrCat("pool: one page needs ", one.bytes(),
                                                     " bytes, ", room, " are free of ",
                                                     arena_.bytes()));
  }
  TS_ASSIGN_OR_RETURN(const PoolLayout layout, PoolLayout::Make(spec.shape, pages));
  auto pool = std::make_unique<Pool>();
  pool->id = next_id_++;
  pool->spec = spec;
  pool->arena_offset = offset;
  pool->view = PoolView(arena_.base() + offset, layout);
  pool->pages = PagePool(pages);
  pool->users.insert(lease);
  for (int64_t i = 0; i < pages; ++i) {
    *pool->view.Header(PageId{static_cast<uint32_t>(i)}) = {.version = kLayoutVersion,
                                                            .state = PageState::kFree,
                                                            .owner_sequence = 0,
                                                            .generation = 0,
                                                            .checksum = 0,
                                                            .reserved = {}};
  }
  const OpenedPool opened{pool->id, offset, layout};
  pools_[pool->id] = std::move(pool);
  return opened;
}

absl::StatusOr<PageStore::Pool*> PageStore::FindPool(LeaseId lease, uint64_t pool) {
  TS_RETURN_IF_ERROR(CheckLease(lease));
  const auto it = pools_.find(pool);
  if (it == pools_.end() || !it->second->users.contains(lease)) {
    ++counters_.stale_refusals;
    return absl::FailedPreconditionError(absl::StrCat("pool ", pool, " is not open here"));
  }
  return it->second.get();
}

// --- pages ---------------------------------------------------------------------------------------

absl::StatusOr<std::vector<PageId>> PageStore::TakePages(Pool& pool, int64_t count) {
  if (pool.pages.free() < count) {
    std::vector<EvictionCandidate> candidates;
    for (const auto& [id, sequence] : sequences_) {
      if (sequence->lease != 0 || sequence->pool != &pool) continue;
      candidates.push_back({id, sequence->last_used, sequence->pages});
    }
    const EvictionPlan plan =
        PlanEviction(candidates, pool.pages.references(), count - pool.pages.free());
    const int64_t obtainable = pool.pages.free() + plan.freed_pages;
    if (obtainable < count) {
      return absl::ResourceExhaustedError(absl::StrCat("pages: ", count, " asked, ", obtainable,
                                                       " free of ", pool.pages.pages()));
    }
    for (const uint64_t id : plan.sequences) {
      ++counters_.evicted_sequences;
      Forget(sequences_.at(id));
    }
  }
  std::vector<PageId> pages = pool.pages.Allocate(count);
  TS_CHECK(static_cast<int64_t>(pages.size()) == count);
  return pages;
}

void PageStore::FreePage(Pool& pool, PageId page) {
  PageHeader* header = pool.view.Header(page);
  if (!pool.pages.DropReference(page)) return;
  if (header->state == PageState::kSealed) --pool.sealed;
  pool.prefixes.Forget(page);
  header->state = PageState::kFree;
  header->owner_sequence = 0;
  header->checksum = 0;
  ClearPage(pool.view, page);  // nobody reads another's rows, whatever goes wrong later
}

void PageStore::CopyOpenPage(const PoolView& view, PageId from, PageId to, int64_t tokens) const {
  std::memcpy(view.Tokens(to), view.Tokens(from), tokens * sizeof(TokenId));
  const int64_t row = int64_t{2} * view.shape().head_dim;
  for (int32_t layer = 0; layer < view.shape().layers; ++layer) {
    for (int32_t head = 0; head < view.shape().kv_heads; ++head) {
      std::memcpy(static_cast<void*>(view.Rows(layer, head, to)), view.Rows(layer, head, from),
                  tokens * row * sizeof(BFloat16));
    }
  }
}

// --- sequences -----------------------------------------------------------------------------------

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

StoreStats PageStore::Stats() const {
  const std::lock_guard lock(mutex_);
  StoreStats stats = counters_;
  stats.epoch = epoch_;
  stats.arena_bytes = arena_.bytes();
  for (const auto& [id, pool] : pools_) {
    const PagePool& pages = pool->pages;
    stats.pool_bytes += pool->view.layout().bytes();
    stats.page_bytes = pool->view.layout().page_bytes();
    stats.pages_total += pages.pages();
    stats.pages_free += pages.free();
    stats.pages_sealed += pool->sealed;
    stats.pages_open += pages.pages() - pages.free() - pool->sealed;
    for (int64_t i = 0; i < pages.pages(); ++i) {
      stats.pages_shared += pages.references(PageId{static_cast<uint32_t>(i)}) > 1;
    }
  }
  for (const auto& [id, sequence] : sequences_) {
    ++(sequence->lease != 0 ? stats.sequences_attached : stats.sequences_detached);
  }
  return stats;
}

absl::Status PageStore::Audit() const {
  const std::lock_guard lock(mutex_);
  std::map<std::pair<uint64_t, uint32_t>, uint32_t> references;
  for (const auto& [id, s] : sequences_) {
    for (size_t p = 0; p < s->pages.size(); ++p) {
      const PageHeader* header = s->pool->view.Header(s->pages[p]);
      const bool sealed = static_cast<int64_t>(p) < s->sealed;
      if (header->state != (sealed ? PageState::kSealed : PageState::kOpen)) {
        return absl::InternalError(absl::StrCat("sequence ", id, " page ", p, " has a wrong state"));
      }
      ++references[{s->pool->id, Index(s->pages[p])}];
    }
  }
  for (const auto& [id, pool] : pools_) {
    int64_t free = 0, sealed = 0;
    for (int64_t i = 0; i < pool->pages.pages(); ++i) {
      const PageId page{static_cast<uint32_t>(i)};
      const auto it = references.find({id, Index(page)});
      if (pool->pages.references(page) != (it == references.end() ? 0 : it->second)) {
        return absl::InternalError(absl::StrCat("page ", i, " has ", pool->pages.references(page),
                                                " references, its sequences say otherwise"));
      }
      const PageState state = pool->view.Header(page)->state;
      if ((state == PageState::kFree) != (it == references.end())) {
        return absl::InternalError(absl::StrCat("page ", i, " is free and held, or neither"));
      }
      if (state == PageState::kOpen && it->second != 1) {
        return absl::InternalError(absl::StrCat("open page ", i, " is shared"));
      }
      free += state == PageState::kFree;
      sealed += state == PageState::kSealed;
    }
    if (free != pool->pages.free() || sealed != pool->sealed) {
      return absl::InternalError(absl::StrCat("pool ", id, " counts ", pool->pages.free(),
                                              " free and ", pool->sealed, " sealed, has ", free,
                                              " and ", sealed));
    }
  }
  return absl::OkStatus();
}

}  // namespace tailor
