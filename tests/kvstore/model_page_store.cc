#include "tests/kvstore/model_page_store.h"

#include <algorithm>

namespace tailor {
namespace {

using Code = ModelPageStore::Code;

int64_t PagesFor(int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

}  // namespace

std::vector<TokenId> ModelSequence::Tokens(int64_t count) const {
  std::vector<TokenId> tokens;
  for (int64_t t = 0; t < count; ++t) {
    tokens.push_back(pages[t / kPageTokens]->tokens[t % kPageTokens]);
  }
  return tokens;
}

std::vector<ModelSequencePtr> ModelPageStore::Sequences() const {
  std::vector<ModelSequencePtr> all;
  for (const auto& [key, sequence] : sequences_) all.push_back(sequence);
  std::sort(all.begin(), all.end(),
            [](const auto& a, const auto& b) { return a->handle.id < b->handle.id; });
  return all;
}

ModelSequencePtr ModelPageStore::Find(uint64_t lease, SequenceHandle handle) const {
  if (!leases_.contains(lease)) return nullptr;
  for (const auto& [key, sequence] : sequences_) {
    if (sequence->lease == lease && sequence->handle == handle) return sequence;
  }
  return nullptr;
}

ModelSequencePtr ModelPageStore::FindOrCount(uint64_t lease, SequenceHandle handle) {
  ModelSequencePtr found = Find(lease, handle);
  stale_ += found == nullptr;
  return found;
}

bool ModelPageStore::HoldsLease(uint64_t lease) {
  stale_ += !leases_.contains(lease);
  return leases_.contains(lease);
}

void ModelPageStore::DropLease(uint64_t lease) {
  for (const ModelSequencePtr& sequence : Sequences()) {
    if (sequence->lease != lease) continue;
    Release(*sequence);
    if (sequence->committed == 0) Forget(sequence);
  }
  for (auto& [id, pool] : pools_) pool.users.erase(lease);
  leases_.erase(lease);
}

Code ModelPageStore::OpenPool(uint64_t lease, int pool) {
  if (!HoldsLease(lease)) return Code::kFailedPrecondition;
  if (!pools_.contains(pool)) {
    std::erase_if(pools_, [&](const auto& entry) {
      const bool listed = std::any_of(sequences_.begin(), sequences_.end(), [&](const auto& kept) {
        return kept.second->pool == entry.first;
      });
      return !listed && entry.second.users.empty();
    });
    pools_[pool].opened = ++pools_opened_;
  }
  pools_[pool].users.insert(lease);
  return Code::kOk;
}

void ModelPageStore::Attach(ModelSequence& sequence, uint64_t lease) {
  sequence.lease = lease;
  sequence.last_used = ++uses_;
}

void ModelPageStore::Release(ModelSequence& sequence) {
  sequence.lease = 0;
  sequence.last_used = ++uses_;
  CutBack(sequence, PagesFor(sequence.committed));
}

void ModelPageStore::CutBack(ModelSequence& sequence, int64_t pages) {
  sequence.pages.resize(std::min<size_t>(sequence.pages.size(), pages));
  sequence.sealed = std::min(sequence.sealed, pages);
  sequence.exact_pages = std::min(sequence.exact_pages, pages);
  sequence.committed = std::min(sequence.committed, pages * kPageTokens);
  DropPrefixesOfFreedPages();
}

void ModelPageStore::Forget(const ModelSequencePtr& sequence) {
  sequences_.erase({sequence->pool, sequence->key});
  DropPrefixesOfFreedPages();
}

void ModelPageStore::DropPrefixesOfFreedPages() {
  std::set<ModelPagePtr> listed;
  for (const auto& [key, sequence] : sequences_) {
    listed.insert(sequence->pages.begin(), sequence->pages.end());
  }
  std::erase_if(prefixes_, [&](const auto& entry) { return !listed.contains(entry.second); });
}

void ModelPageStore::FoundDamage(const ModelPagePtr& page) {
  ++damaged_;
  std::erase_if(prefixes_, [&](const auto& entry) { return entry.second == page; });
}

int64_t ModelPageStore::FreePages(int pool, const std::set<ModelSequencePtr>& gone) const {
  std::set<ModelPagePtr> listed;
  for (const auto& [key, sequence] : sequences_) {
    if (sequence->pool != pool || gone.contains(sequence)) continue;
    listed.insert(sequence->pages.begin(), sequence->pages.end());
  }
  return layouts_[pool].pages() - static_cast<int64_t>(listed.size());
}

// Least recently used first, until there is room; those that free nothing stay.
bool ModelPageStore::MakeRoom(int pool, int64_t count) {
  std::map<uint64_t, ModelSequencePtr> lru;
  for (const auto& [key, sequence] : sequences_) {
    if (sequence->pool == pool && sequence->lease == 0) lru[sequence->last_used] = sequence;
  }
  std::set<ModelSequencePtr> gone;
  for (const auto& [used, sequence] : lru) {
    if (FreePages(pool, gone) < count) gone.insert(sequence);
  }
  const int64_t free = FreePages(pool, gone);
  if (free < count) return false;
  for (const auto& [used, sequence] : lru) {
    std::set<ModelSequencePtr> without = gone;
    if (without.erase(sequence) == 0 || FreePages(pool, without) == free) continue;
    Forget(sequence);
    ++evicted_;
  }
  return true;
}

Code ModelPageStore::OpenSequence(uint64_t lease, int pool, const SequenceKey& key,
                                  const std::vector<TokenId>& history, ModelSequencePtr* out) {
  if (!HoldsLease(lease)) return Code::kFailedPrecondition;
  if (!pools_.contains(pool) || !pools_[pool].users.contains(lease)) {
    ++stale_;
    return Code::kFailedPrecondition;
  }
  const auto length = static_cast<int64_t>(history.size());
  const auto kept = sequences_.find({pool, key});
  if (kept == sequences_.end()) {
    if (history.empty()) return Code::kNotFound;
    *out = std::make_shared<ModelSequence>();
    (*out)->pool = pool;
    (*out)->key = key;
    sequences_[{pool, key}] = *out;
    for (int64_t end = kPageTokens; end < length; end += kPageTokens) {
      const auto page =
          prefixes_.find({pool, key.tenant, {history.begin(), history.begin() + end}});
      if (page == prefixes_.end()) break;
      (*out)->pages.push_back(page->second);
      (*out)->sealed = (*out)->exact_pages = end / kPageTokens;
      (*out)->committed = end;
    }
  } else {
    *out = kept->second;
    if ((*out)->lease != 0) return Code::kAlreadyExists;
    const std::vector<TokenId> tokens = (*out)->Tokens((*out)->committed);
    const int64_t agreeing =
        std::mismatch(tokens.begin(), tokens.end(), history.begin(), history.end()).first -
        tokens.begin();
    if (!history.empty() && agreeing < (*out)->committed &&
        agreeing >= (*out)->sealed * kPageTokens &&
        agreeing == static_cast<int64_t>(history.size())) {
      CutBack(**out, PagesFor(agreeing));
      (*out)->committed = agreeing;
    } else if (!history.empty() && agreeing < (*out)->committed) {
      CutBack(**out, std::min(agreeing / kPageTokens, (*out)->sealed));
    }
  }
  Attach(**out, lease);
  return Code::kOk;
}

Code ModelPageStore::ForkSequence(uint64_t lease, SequenceHandle handle, const SequenceKey& child,
                                  ModelSequencePtr* out) {
  const ModelSequencePtr parent = FindOrCount(lease, handle);
  if (parent == nullptr) return Code::kFailedPrecondition;
  if (parent->key.tenant != child.tenant) return Code::kPermissionDenied;
  if (sequences_.contains({parent->pool, child})) return Code::kAlreadyExists;
  const int64_t pages = PagesFor(parent->committed);
  if (!MakeRoom(parent->pool, pages - parent->sealed)) return Code::kResourceExhausted;
  *out = std::make_shared<ModelSequence>(*parent);
  (*out)->key = child;
  (*out)->pages.resize(pages);
  for (int64_t p = parent->sealed; p < pages; ++p) {
    const ModelPagePtr& from = parent->pages[p];
    (*out)->pages[p] = std::make_shared<ModelPage>();
    for (int64_t t = 0; t < kPageTokens && p * kPageTokens + t < parent->committed; ++t) {
      (*out)->pages[p]->tokens[t] = from->tokens[t];
      (*out)->pages[p]->row_seeds[t] = from->row_seeds[t];
    }
  }
  sequences_[{parent->pool, child}] = *out;
  Attach(**out, lease);
  return Code::kOk;
}

Code ModelPageStore::ReservePages(uint64_t lease, SequenceHandle handle, int64_t count,
                                  std::vector<ModelPagePtr>* out) {
  const ModelSequencePtr sequence = FindOrCount(lease, handle);
  if (sequence == nullptr) return Code::kFailedPrecondition;
  if (count < 1) return Code::kInvalidArgument;
  if (!MakeRoom(sequence->pool, count)) return Code::kResourceExhausted;
  for (int64_t i = 0; i < count; ++i) out->push_back(std::make_shared<ModelPage>());
  sequence->pages.insert(sequence->pages.end(), out->begin(), out->end());
  return Code::kOk;
}

Code ModelPageStore::SealPages(uint64_t lease, SequenceHandle handle, int64_t count,
                               PageOrigin origin) {
  const ModelSequencePtr sequence = FindOrCount(lease, handle);
  if (sequence == nullptr) return Code::kFailedPrecondition;
  ModelSequence& s = *sequence;
  if (count < 1 || (s.sealed + count) * kPageTokens > s.committed) return Code::kFailedPrecondition;
  for (int64_t i = 0; i < count; ++i) {
    const bool exact = origin == PageOrigin::kExactPrefill && s.exact_pages == s.sealed;
    const ModelPagePtr page = s.pages[s.sealed++];
    if (!exact) continue;
    s.exact_pages = s.sealed;
    prefixes_.emplace(Prefix{s.pool, s.key.tenant, s.Tokens(s.sealed * kPageTokens)}, page);
  }
  return Code::kOk;
}

Code ModelPageStore::VerifyPages(uint64_t lease, SequenceHandle handle, int64_t first,
                                 int64_t count) {
  const ModelSequencePtr sequence = FindOrCount(lease, handle);
  if (sequence == nullptr) return Code::kFailedPrecondition;
  const bool inside = first >= 0 && count >= 0 && first + count <= sequence->sealed;
  return inside ? Code::kOk : Code::kInvalidArgument;
}

Code ModelPageStore::DetachSequence(uint64_t lease, SequenceHandle handle) {
  const ModelSequencePtr sequence = FindOrCount(lease, handle);
  if (sequence == nullptr) return Code::kFailedPrecondition;
  Release(*sequence);
  if (sequence->committed == 0) Forget(sequence);
  return Code::kOk;
}

Code ModelPageStore::CloseSequence(uint64_t lease, SequenceHandle handle) {
  const ModelSequencePtr sequence = FindOrCount(lease, handle);
  if (sequence == nullptr) return Code::kFailedPrecondition;
  Forget(sequence);
  return Code::kOk;
}

Code ModelPageStore::RemoveSequence(uint64_t lease, const SequenceKey& key) {
  if (!HoldsLease(lease)) return Code::kFailedPrecondition;
  std::vector<ModelSequencePtr> found;
  for (const ModelSequencePtr& sequence : Sequences()) {
    if (sequence->key == key) found.push_back(sequence);
  }
  if (found.empty()) return Code::kNotFound;
  for (const ModelSequencePtr& sequence : found) {
    if (sequence->lease != 0) return Code::kFailedPrecondition;
  }
  for (const ModelSequencePtr& sequence : found) Forget(sequence);
  return Code::kOk;
}

Code ModelPageStore::Select(uint64_t lease, SequenceHandle handle, int64_t sealed_pages) {
  const ModelSequencePtr sequence = FindOrCount(lease, handle);
  if (sequence == nullptr) return Code::kFailedPrecondition;
  ++selects_;
  return sealed_pages >= 0 && sealed_pages <= sequence->sealed ? Code::kOk : Code::kFailedPrecondition;
}

StoreStats ModelPageStore::Stats() const {
  StoreStats stats;
  stats.arena_bytes = arena_bytes_;
  uint64_t last_opened = 0;
  for (const auto& [index, pool] : pools_) {
    stats.pool_bytes += layouts_[index].bytes();
    stats.pages_total += layouts_[index].pages();
    stats.pages_free += FreePages(index, {});
    if (pool.opened > last_opened) stats.page_bytes = layouts_[index].page_bytes();
    last_opened = std::max(last_opened, pool.opened);
  }
  std::map<ModelPagePtr, int> listings;
  std::set<ModelPagePtr> sealed;
  for (const auto& [key, s] : sequences_) {
    ++(s->lease != 0 ? stats.sequences_attached : stats.sequences_detached);
    for (const ModelPagePtr& page : s->pages) ++listings[page];
    sealed.insert(s->pages.begin(), s->pages.begin() + s->sealed);
  }
  stats.pages_sealed = static_cast<int64_t>(sealed.size());
  stats.pages_open = static_cast<int64_t>(listings.size() - sealed.size());
  for (const auto& [page, count] : listings) stats.pages_shared += count > 1;
  stats.evicted_sequences = evicted_;
  stats.checksum_failures = damaged_;
  stats.stale_refusals = stale_;
  stats.selects = selects_;
  return stats;
}

}  // namespace tailor
