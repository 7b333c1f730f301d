// The same random calls to a PageStore and to its model, by several workers that die, lie about
// handles and press for pages in a small arena.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>
#include <string>

#include "tests/kvstore/model_page_store.h"
#include "tests/kvstore/store_rig.h"

namespace tailor {

// A worker's view of one life of a sequence; kept past its end, to be used stale.
struct Life {
  uint64_t lease = 0;
  SequenceHandle handle;
  uint32_t slot = 0;
  int64_t exact_tokens = 0;      // as SequenceCache counts them
  std::vector<TokenId> history;  // that it is to be filled with
};

class Walk {
 public:
  explicit Walk(uint64_t seed);

  void Step();
  void CheckBooks();
  void CheckAPage();
  int64_t calls_of(const std::string& call) { return answers_[{call, absl::StatusCode::kOk}]; }
  int64_t refusals_of(const std::string& call, absl::StatusCode code) {
    return answers_[{call, code}];
  }
  StoreStats Stats() const { return store_->Stats(); }
  int64_t shared_prefixes = 0, cut_back = 0;

 private:
  int64_t Below(int64_t limit) { return static_cast<int64_t>(random_() % limit); }
  bool OneIn(int64_t n) { return Below(n) == 0; }

  void OpenLease();
  void DropLease();
  void OpenPool();
  void OpenSequence();
  void Fork();
  void Reserve(Life& life, int64_t count);
  void Write(Life& life);
  void Seal(Life& life);
  void Verify(Life& life);
  void Select(Life& life);
  void End(Life& life);
  void Remove();

  uint64_t AnyLease() { return leases_.empty() ? 99 : leases_[Below(leases_.size())]; }
  SequenceKey AnyKey() {
    return {.tenant = OneIn(3) ? "u" : "t",
            .name = std::string(1, static_cast<char>('a' + Below(6)))};
  }
  std::vector<TokenId> AnyHistory();
  Life* AnyLife();
  void Expect(const std::string& call, const absl::Status& got, absl::StatusCode want);
  void Granted(const StoreGrant& got, const ModelSequencePtr& want, std::vector<TokenId> history);
  void Bind(const ModelPagePtr& page, PageId id, int pool);
  void CheckRow(const PoolView& view, int layer, int head, int64_t token, uint32_t seed,
                const BFloat16* row);

  std::mt19937_64 random_;
  std::shared_ptr<PageStore> store_;
  ModelPageStore model_;
  std::vector<uint64_t> leases_;  // held, and the last one dropped
  uint64_t pool_ids_[2] = {0, 0};
  PoolView views_[2];
  std::vector<Life> lives_;
  std::set<uint64_t> generations_;
  std::map<std::pair<std::string, absl::StatusCode>, int64_t> answers_;
};

}  // namespace tailor
