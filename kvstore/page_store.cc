#include "kvstore/page_store.h"

#include <algorithm>
#include <cstring>
#include <random>

#include "common/status.h"
#include "kvstore/eviction.h"
#include "kvstore/page_index.h"

namespace tailor {
namespace {

uint64_t RandomEpoch() {
  std::random_device device;
  const uint64_t epoch = (static_cast<uint64_t>(device()) << 32) | device();
  return epoch != 0 ? epoch : 1;
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
