// What the page store promises, in plain maps and lists: slow, and obviously right. Numbers that
// the store is free to choose (leases, ids, generations, pages) are told to the model.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "absl/status/status.h"
#include "kvstore/client/kv_client.h"

namespace tailor {

struct ModelPage {
  PageId id = kNoPage;
  std::vector<TokenId> tokens = std::vector<TokenId>(kPageTokens, 0);
  // What the rows of each token are made of; 0: zeroes.
  std::vector<uint32_t> row_seeds = std::vector<uint32_t>(kPageTokens, 0);
};
using ModelPagePtr = std::shared_ptr<ModelPage>;

struct ModelSequence {
  int pool = 0;
  SequenceKey key;
  SequenceHandle handle;
  uint64_t lease = 0;  // 0: detached
  std::vector<ModelPagePtr> pages;
  int64_t sealed = 0, exact_pages = 0, committed = 0;
  uint64_t last_used = 0;

  std::vector<TokenId> Tokens(int64_t count) const;  // the first so many
  bool exact() const { return exact_pages * kPageTokens == committed; }
};
using ModelSequencePtr = std::shared_ptr<ModelSequence>;

// Every call returns the code that the store must answer with. A sequence or pages in `out` are to
// be bound to the numbers the store chose.
class ModelPageStore {
 public:
  using Code = absl::StatusCode;

  // The pools that can be opened: there is always room for all of them.
  ModelPageStore(std::vector<PoolLayout> layouts, int64_t arena_bytes)
      : layouts_(std::move(layouts)), arena_bytes_(arena_bytes) {}

  void OpenLease(uint64_t lease) { leases_.insert(lease); }
  void DropLease(uint64_t lease);
  Code OpenPool(uint64_t lease, int pool);
  Code OpenSequence(uint64_t lease, int pool, const SequenceKey& key,
                    const std::vector<TokenId>& history, ModelSequencePtr* out);
  Code ForkSequence(uint64_t lease, SequenceHandle parent, const SequenceKey& child,
                    ModelSequencePtr* out);
  Code ReservePages(uint64_t lease, SequenceHandle handle, int64_t count,
                    std::vector<ModelPagePtr>* out);
  Code SealPages(uint64_t lease, SequenceHandle handle, int64_t count, PageOrigin origin);
  Code VerifyPages(uint64_t lease, SequenceHandle handle, int64_t first, int64_t count);
  Code DetachSequence(uint64_t lease, SequenceHandle handle);
  Code CloseSequence(uint64_t lease, SequenceHandle handle);
  Code RemoveSequence(uint64_t lease, const SequenceKey& key);
  Code Select(uint64_t lease, SequenceHandle handle, int64_t sealed_pages);
  // A check found `page` damaged: nobody new shares it.
  void FoundDamage(const ModelPagePtr& page);

  // Attached or detached, in order of their ids.
  std::vector<ModelSequencePtr> Sequences() const;
  ModelSequencePtr Find(uint64_t lease, SequenceHandle handle) const;  // null: stale
  StoreStats Stats() const;                                            // all but the epoch

 private:
  struct Pool {
    uint64_t opened = 0;  // order of opening
    std::set<uint64_t> users;
  };
  // pool, tenant and all ids up to the end of the page
  using Prefix = std::tuple<int, std::string, std::vector<TokenId>>;

  ModelSequencePtr FindOrCount(uint64_t lease, SequenceHandle handle);
  bool HoldsLease(uint64_t lease);
  void Attach(ModelSequence& sequence, uint64_t lease);
  void Release(ModelSequence& sequence);
  void CutBack(ModelSequence& sequence, int64_t pages);
  void Forget(const ModelSequencePtr& sequence);
  void DropPrefixesOfFreedPages();
  int64_t FreePages(int pool, const std::set<ModelSequencePtr>& gone) const;
  bool MakeRoom(int pool, int64_t count);

  const std::vector<PoolLayout> layouts_;
  const int64_t arena_bytes_;
  std::set<uint64_t> leases_;
  std::map<int, Pool> pools_;
  std::map<std::pair<int, SequenceKey>, ModelSequencePtr> sequences_;
  std::map<Prefix, ModelPagePtr> prefixes_;
  uint64_t uses_ = 0, pools_opened_ = 0;
  int64_t evicted_ = 0, damaged_ = 0, stale_ = 0, selects_ = 0;
};

}  // namespace tailor
