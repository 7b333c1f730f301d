// A sequence's KV as one worker holds it: its pages in the store and one LayerCache a layer.
//
// Pages are the truth. Every token's rows go to its open page (mapped memory) as well as to the
// layer's window; Commit publishes them; a page is sealed once WindowTokens() newer tokens exist.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "kvstore/client/kv_client.h"
#include "worker/cache/fetcher.h"
#include "worker/cache/layer_cache.h"
#include "worker/cache/self_check.h"
#include "worker/policy/layer_policy.h"

namespace tailor {

enum class CacheMode { kHybrid, kFull };

struct CacheTotals {
  LayerBytes worker;
  int64_t store_rows = 0, store_index = 0;  // bytes of this sequence's pages
  int64_t rows_fetched = 0, bytes_fetched = 0;
  int64_t rows_cached =
      0;  // of rows_fetched, those that a device's row cache had: not in bytes_fetched
};

class DoorbellLine;  // worker/cache/doorbell_line.h

// What one decode step's attention did in a layer; worker/quality listens.
class AttendProbe {
 public:
  virtual ~AttendProbe() = default;
  // [1][q_heads] in device memory: where the layer's log-sum-exp goes before OnAttend is called;
  // quantized layers leave it.
  virtual MatrixView<float> lse() = 0;
  // q, out: [1][q_heads * head_dim] in device memory; fetched.count is 0 where nothing was
  // selected.
  virtual void OnAttend(int32_t layer, const PagedRows& rows, const AttendCall& call) = 0;
};

class SequenceCache {
 public:
  // `pool`, `store` and `doorbell` outlive the cache. With a doorbell, selector `store` uses it.
  // Loads what the grant already holds, after verifying its sealed pages. Errors: DataLoss,
  // ResourceExhausted.
  static absl::StatusOr<std::unique_ptr<SequenceCache>> Make(Backend* backend, KvClient* store,
                                                             const PoolView* pool,
                                                             const LayerPolicy& policy,
                                                             CacheMode mode, SequenceGrant grant,
                                                             DoorbellLine* doorbell = nullptr);
  // What is still enqueued writes to pages of the grant: ends when it has, so that the sequence may
  // be given back.
  ~SequenceCache();
  // Worker bytes of a sequence of `tokens` tokens: what Make and Reserve allocate, exactly. The
  // policy's selector is one that the backend runs (RunnableSelector).
  static LayerBytes Quote(const LayerPolicy& policy, const PoolShape& shape, CacheMode mode,
                          int64_t tokens);

  // Reserves store pages and worker rows for `tokens` tokens in all.
  absl::Status Reserve(int64_t tokens);

  // --- decode, one token: for every layer NewRows, (Fetch,) Attend; then CommitToken ---
  // Pointers to the new token's rows: [kv_heads] in the store's page, then [kv_heads] in the
  // window.
  void NewRows(int32_t layer, std::span<BFloat16*> store_rows, std::span<BFloat16*> window_rows);
  bool Fetches(int32_t layer) const;  // sparse, hybrid, something is sealed, the budget is not all
  // q: [q_heads * head_dim] in device memory.
  absl::Status PostFetch(int32_t layer, std::span<const float> q);
  absl::Status Attend(int32_t layer, MatrixView<const float> q, MatrixView<float> out);
  // In place of Attend where something was posted and the step has failed.
  void DiscardFetch(int32_t layer) { (void)fetcher_->Take(layer); }
  absl::Status CommitToken(TokenId token);

  // --- prefill, layer-major: rows go to the pages, then each layer catches up ---
  // The pages, and the rows that are committed in them.
  PagedRows stored_rows() const { return Rows(tokens()); }
  BFloat16* StoreRow(int32_t layer, int32_t kv_head, int64_t position) const;
  // Segments of positions [0, tokens) of one layer in the store's pages, per KV head.
  std::span<const std::span<const RowSegment>> StoreSegments(int32_t layer, int64_t tokens);
  // on_device: the layer's rows of these tokens in device memory, or null.
  absl::Status ExtendLayer(int32_t layer, int64_t tokens, const LayerRows* on_device = nullptr);
  // After every layer caught up: publishes the new tokens and seals what left the window.
  absl::Status CommitPrefill(std::span<const TokenId> new_tokens);

  // --- self-check ---
  // A turn's first decode step, which is checked, is at this position.
  void StartTurn(int64_t position) { turn_start_ = position; }
  // What was found since the last call.
  CheckTotals TakeChecks() { return std::exchange(checks_, {}); }
  // Rows fetched a KV head and layer; 0: all, attention is exact.
  int32_t budget_rows() const { return attends_exactly() ? 0 : BudgetRows(); }

  int64_t tokens() const { return static_cast<int64_t>(token_ids_.size()); }
  std::span<const TokenId> token_ids() const { return token_ids_; }
  SequenceHandle handle() const { return grant_.handle; }
  CacheMode mode() const { return mode_; }
  CacheTotals totals() const;
  // For worker/quality: listen to attention, or select by other means (oracle, random).
  void set_probe(AttendProbe* probe) { probe_ = probe; }
  void set_fetcher(std::unique_ptr<RowFetcher> fetcher) { fetcher_ = std::move(fetcher); }

 private:
  SequenceCache(Backend* backend, KvClient* store, const PoolView* pool, const LayerPolicy& policy,
                CacheMode mode, SequenceGrant grant, DoorbellLine* doorbell);
  std::unique_ptr<RowFetcher> MakeFetcher(DoorbellLine* doorbell) const;
  absl::Status LoadGrant();
  // Pages that have left the window of a sequence of `tokens` tokens. The store may have sealed
  // more (a shared prefix, a history cut back), but what a step attends to depends on its tokens
  // alone.
  int64_t PagesToSeal(int64_t tokens) const;
  PagedRows Rows(int64_t tokens) const;
  absl::Status PublishTokens(std::span<const TokenId> ids);
  absl::Status SealUpTo(int64_t sealed_pages);
  SealedPages Sealed() const;
  absl::Status ExtendFetcher();
  bool ChecksNow() const;
  int32_t BudgetRows() const { return policy_.select.top_k << budget_doublings_; }
  bool attends_exactly() const { return BudgetRows() > kMaxTopK; }
  absl::Status AttendLayer(int32_t layer, AttendCall& call);
  absl::Status CheckHead(int32_t layer, const AttendCall& call);
  absl::Status FinishCheck();

  Backend* backend_;
  KvClient* store_;
  const PoolView* pool_;
  const LayerPolicy policy_;
  const CacheMode mode_;
  SequenceGrant grant_;  // pages and counts are kept current
  std::vector<TokenId> token_ids_;
  int64_t exact_tokens_ = 0;  // leading tokens whose rows came from exact prefill
  std::vector<std::unique_ptr<LayerCache>> layers_;
  std::unique_ptr<RowFetcher> fetcher_;
  AttendScratch scratch_;
  std::vector<float> host_q_;  // a posted query where the device's memory is not the host's
  AttendProbe* probe_ = nullptr;
  int64_t rows_fetched_ = 0;
  int32_t budget_doublings_ = 0;
  int64_t turn_start_ = -1;
  StepCheck step_check_;
  CheckTotals checks_;
};

}  // namespace tailor
