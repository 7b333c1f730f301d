// What a worker may ask of a KV store: the only door. Control calls (a few a page) may block for a
// round trip; the data plane (rows, commits, selections) never makes one a token.
// Implementations: LocalKvClient (same process), ShmKvClient (own process, memfd arena and rings).
// Thread-compatible: one thread at a time per client; Stats may be called from any.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/fingerprint.h"
#include "common/types.h"
#include "kvstore/layout.h"
#include "kvstore/select/exact_attention.h"
#include "kvstore/select/select.h"

namespace tailor {

struct PoolSpec {
  Fingerprint model;    // of the weights
  Fingerprint policy;   // of the layer table
  PoolShape shape;
  int64_t max_bytes = 0;  // of arena; 0: all that is free when the pool is first opened
};

// A sequence's name, unique within its tenant. The tenant comes from an authenticated identity.
struct SequenceKey {
  std::string tenant;
  std::string name;
  friend auto operator<=>(const SequenceKey&, const SequenceKey&) = default;
};

// Names one life of one sequence. A handle from before a close, truncation or lost lease is stale:
// every call refuses it with FailedPrecondition, and nothing is served.
struct SequenceHandle {
  uint64_t id = 0;
  uint64_t generation = 0;
  friend bool operator==(const SequenceHandle&, const SequenceHandle&) = default;
};

struct SequenceGrant {
  SequenceHandle handle;
  std::vector<PageId> pages;     // in token order: sealed ones first, then open ones
  int64_t sealed_pages = 0;
  int64_t committed_tokens = 0;  // rows of all layers are valid for these; ids are in pages' tokens
  int32_t budget_doublings = 0;  // by self-checks so far: see SetBudget
  // Every committed row is known to come from exact prefill (see PageOrigin): never so when an open
  // page holds committed tokens, whose origin nobody recorded.
  bool exact = true;
};

// Where a page's rows came from. Only pages whose whole prefix is kExactPrefill enter the prefix
// index: rows decoded with selected attention depend on more than the token ids.
enum class PageOrigin : uint8_t { kExactPrefill = 0, kDecoded = 1 };

struct StoreStats {
  uint64_t epoch = 0;
  int64_t arena_bytes = 0, pool_bytes = 0;
  int64_t pages_total = 0, pages_free = 0, pages_open = 0, pages_sealed = 0, pages_shared = 0;
  int64_t page_bytes = 0;
  int64_t sequences_attached = 0, sequences_detached = 0;
  int64_t evicted_sequences = 0, checksum_failures = 0, stale_refusals = 0, selects = 0;
  int64_t exact_queries = 0;  // of self-checks
};

struct SelectCall {
  SequenceHandle sequence;
  int32_t layer = 0;
  int64_t sealed_pages = 0;      // candidates: tokens of the first so many; more than are sealed is stale
  std::span<const float> q;      // [q_heads * head_dim]
  SelectParams params;
};

// Rows placed by the store, valid until the next PostSelect that reuses the slot.
struct SelectedRows {
  int32_t count = 0;
  std::span<const int32_t> tokens;  // [kv_heads][count], ascending
  std::span<const BFloat16> rows;   // [kv_heads][count][2][head_dim]
};

struct ExactQuery {
  int32_t layer = 0, kv_head = 0;
  std::vector<float> q;  // [group * head_dim], the true query, roped
};
struct ExactCall {  // exact attention of some heads over all candidates, for self-checks
  SequenceHandle sequence;
  int64_t sealed_pages = 0;  // candidates: tokens of the first so many pages, without the sink
  int32_t sink_tokens = 0;
  std::vector<ExactQuery> queries;  // at most kMaxExactQueries
};
inline constexpr size_t kMaxExactQueries = 1024;

class PromisedSelects;  // promised_selects.h
class KvClient {
 public:
  virtual ~KvClient() = default;

  // --- control ---
  // One answer for each query, computed next to the rows. Reads every row of the candidates.
  // Errors: FailedPrecondition (stale), InvalidArgument, DataLoss (a row failed its check).
  virtual absl::StatusOr<std::vector<ExactOutput>> AttendExactly(const ExactCall& call) = 0;
  // Opens the pool of this spec, creating it if need be. Errors: ResourceExhausted, FailedPrecondition
  // (same fingerprints, other shape).
  virtual absl::StatusOr<PoolView> OpenPool(const PoolSpec& spec) = 0;
  // Attaches the sequence `key`, or creates it. `history` are the ids the caller wants: what is kept
  // agrees with a prefix of it (a detached sequence that is merely longer is cut to it, one that
  // differs to the last sealed page before the difference; a new one starts from the longest sealed prefix of its tenant). Empty:
  // attaches what is kept, as it is. Errors: AlreadyExists when a live lease has it; NotFound when
  // nothing is kept and `history` is empty; ResourceExhausted when too many are attached.
  virtual absl::StatusOr<SequenceGrant> OpenSequence(const SequenceKey& key,
                                                     std::span<const TokenId> history) = 0;
  // A new sequence equal to `parent`: shares sealed pages, copies open ones. Errors: AlreadyExists;
  // PermissionDenied into another tenant; ResourceExhausted when no page is left for a copy.
  virtual absl::StatusOr<SequenceGrant> ForkSequence(SequenceHandle parent,
                                                     const SequenceKey& child) = 0;
  // Appends `count` open pages. Evicts detached sequences, oldest first, if need be.
  // Errors: ResourceExhausted "pages: N asked, M free of T": nothing is handed out then. M counts
  // what eviction would free.
  virtual absl::StatusOr<std::vector<PageId>> ReservePages(SequenceHandle sequence,
                                                           int64_t count) = 0;
  // Seals the next `count` open pages, all of whose tokens are committed.
  virtual absl::Status SealPages(SequenceHandle sequence, int64_t count, PageOrigin origin) = 0;
  // Verifies the checks of pages [first, first + count), sealed. Errors: DataLoss.
  virtual absl::Status VerifyPages(SequenceHandle sequence, int64_t first, int64_t count) = 0;
  virtual absl::Status DetachSequence(SequenceHandle sequence) = 0;  // kept, evictable
  virtual absl::Status CloseSequence(SequenceHandle sequence) = 0;   // its pages are released
  // Removes a detached sequence by name. NotFound is an answer, not a failure.
  virtual absl::Status RemoveSequence(const SequenceKey& key) = 0;
  virtual absl::StatusOr<StoreStats> Stats() = 0;

  // --- data plane ---
  // How often self-checks have doubled the sequence's budget, from token `from_token` on; holds
  // once so many are committed. Kept with the sequence, inherited by forks, granted to who attaches
  // it.
  virtual absl::Status SetBudget(SequenceHandle sequence, int32_t doublings,
                                 int64_t from_token) = 0;
  // Publishes that rows and token ids of the first `tokens` tokens are written: a release store.
  virtual absl::Status Commit(SequenceHandle sequence, int64_t tokens) = 0;
  // Posts a selection; returns its ticket. At most kMaxPendingSelects may be pending.
  virtual absl::StatusOr<uint64_t> PostSelect(const SelectCall& call) = 0;
  // Waits for a ticket, in posting order. Errors: DeadlineExceeded, DataLoss, FailedPrecondition
  // (stale epoch or generation), Unavailable (the store is gone).
  virtual absl::StatusOr<SelectedRows> FinishSelect(uint64_t ticket) = 0;
  virtual PromisedSelects* promised_selects() { return nullptr; }  // null: there are none
};
inline constexpr int kMaxPendingSelects = 4;

}  // namespace tailor
