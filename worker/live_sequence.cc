#include "worker/live_sequence.h"

#include <algorithm>

#include "common/log.h"
#include "common/status.h"

namespace tailor {
namespace {

bool IsProperPrefix(std::span<const TokenId> kept, std::span<const TokenId> history) {
  return kept.size() < history.size() && std::equal(kept.begin(), kept.end(), history.begin());
}

}  // namespace

absl::StatusOr<std::unique_ptr<SequenceCache>> LiveSequences::Open(
    const SequenceKey& key, std::span<const TokenId> history, CacheMode mode) {
  TS_ASSIGN_OR_RETURN(SequenceGrant grant, store_->OpenSequence(key, history));
  const SequenceHandle handle = grant.handle;
  auto cache =
      SequenceCache::Make(backend_, store_, pool_, policy_, mode, std::move(grant), doorbell_);
  if (absl::IsDataLoss(cache.status())) {
    spdlog::error("sequence dropped, its KV will be recomputed: {}",
                  std::string(cache.status().message()));
    TS_RETURN_IF_ERROR(store_->CloseSequence(handle));
  } else if (!cache.ok()) {
    (void)store_->DetachSequence(handle);  // the first error is the one to report
  }
  return cache;
}

absl::StatusOr<SequenceCache*> LiveSequences::Acquire(const SequenceKey& key,
                                                      std::span<const TokenId> history,
                                                      CacheMode mode) {
  const auto it = caches_.find(key);
  if (it != caches_.end()) {
    const SequenceCache& cache = *it->second.cache;
    if (cache.mode() == mode && IsProperPrefix(cache.token_ids(), history)) {
      it->second.last_used = ++uses_;
      return it->second.cache.get();
    }
    TS_RETURN_IF_ERROR(Detach(key));
  }
  const std::span<const TokenId> wanted = history.first(history.size() - 1);
  auto cache = Open(key, wanted, mode);
  if (absl::IsDataLoss(cache.status())) cache = Open(key, wanted, mode);
  if (!cache.ok()) return cache.status();
  Entry& entry = caches_[key];
  entry = {.cache = *std::move(cache), .last_used = ++uses_};
  return entry.cache.get();
}

absl::Status LiveSequences::Fork(const SequenceKey& parent, const SequenceKey& child) {
  const auto it = caches_.find(parent);
  if (it != caches_.end()) {
    TS_ASSIGN_OR_RETURN(const SequenceGrant grant,
                        store_->ForkSequence(it->second.cache->handle(), child));
    return store_->DetachSequence(grant.handle);
  }
  // An empty history attaches what the store keeps, as it is.
  TS_ASSIGN_OR_RETURN(const SequenceGrant kept, store_->OpenSequence(parent, {}));
  const auto grant = store_->ForkSequence(kept.handle, child);
  TS_RETURN_IF_ERROR(store_->DetachSequence(kept.handle));
  if (!grant.ok()) return grant.status();
  return store_->DetachSequence(grant->handle);
}

absl::Status LiveSequences::Detach(const SequenceKey& key) {
  const auto it = caches_.find(key);
  if (it == caches_.end()) return absl::OkStatus();
  const SequenceHandle handle = it->second.cache->handle();
  caches_.erase(it);
  return store_->DetachSequence(handle);
}

absl::Status LiveSequences::Remove(const SequenceKey& key) {
  const auto it = caches_.find(key);
  if (it != caches_.end()) {
    const SequenceHandle handle = it->second.cache->handle();
    caches_.erase(it);
    return store_->CloseSequence(handle);
  }
  const absl::Status removed = store_->RemoveSequence(key);
  return absl::IsNotFound(removed) ? absl::OkStatus() : removed;
}

void LiveSequences::DetachAll() {
  while (!caches_.empty()) {
    const SequenceKey key = caches_.begin()->first;
    const absl::Status detached = Detach(key);
    if (!detached.ok()) {
      spdlog::warn("sequence not detached: {}", std::string(detached.message()));
    }
  }
}

int64_t LiveSequences::worker_bytes() const {
  int64_t bytes = 0;
  for (const auto& [key, entry] : caches_) {
    bytes += entry.cache->totals().worker.total();
  }
  return bytes;
}

}  // namespace tailor
