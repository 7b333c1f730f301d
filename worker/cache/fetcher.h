// Brings the dominant rows of sparse layers to the worker: posted with a query (the layer's own, or
// predicted one layer ahead), taken when the layer attends. ALGORITHM §3.2-3.4, §4.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kvstore/client/kv_client.h"
#include "kvstore/select/select.h"
#include "worker/ops/backend.h"
#include "worker/policy/layer_policy.h"

namespace tailor {

// What a selection looks at: the sequence's sealed pages.
struct SealedPages {
  const PoolView* pool = nullptr;
  std::span<const PageId> pages;
  SequenceHandle sequence;
};

// The layer about to attend, and the one after it.
inline constexpr size_t kMaxPosted = 2;
static_assert(kMaxPosted <= kMaxPendingSelects);

class RowFetcher {
 public:
  virtual ~RowFetcher() = default;
  // Selections posted from now on fetch 2^doublings times the policy's rows, kMaxTopK at most; a
  // control keeps to its own number.
  virtual void SetDoublings(int32_t) {}
  // Brings what is kept of sealed pages up to date: when a sequence is loaded, and after a seal.
  // Errors: ResourceExhausted.
  virtual absl::Status Extend(const SealedPages&) { return absl::OkStatus(); }
  // Of kept copies of the index, in device memory.
  virtual int64_t sketch_bytes() const { return 0; }
  // Of kept rows, in device memory, and how many rows came out of them instead of the store so far.
  virtual int64_t row_cache_bytes() const { return 0; }
  virtual int64_t cached_rows() const { return 0; }
  // Where Post wants its query: in memory of the host, or of the device.
  enum class QueryIn { kHost, kDevice };
  virtual QueryIn query_in() const { return QueryIn::kHost; }
  // Starts the selection of one layer. At most kMaxPosted may be posted and not taken (TS_CHECK).
  virtual absl::Status Post(int32_t layer, const SealedPages& sealed, std::span<const float> q) = 0;
  // The rows of the oldest post, which must be of `layer` (TS_CHECK); valid until the next Take,
  // and until the next-but-one Post. Errors: DataLoss (a row failed its check), DeadlineExceeded,
  // Unavailable.
  virtual absl::StatusOr<SelectedRows> Take(int32_t layer) = 0;
  // Before a step's token is committed: whether the rows that its ops read were those that Take
  // announced, where Take does not wait for them. Errors: as Take's.
  virtual absl::Status Settle() { return absl::OkStatus(); }
};

// `inline`: the worker's own threads select over the mapped pages, a KV head each. `store`: the
// store's threads do. layer_top_k: params.top_k of each layer, or empty (LayerPolicy).
std::unique_ptr<RowFetcher> MakeInlineFetcher(Backend* backend, const PoolShape& shape,
                                              const SelectParams& params,
                                              std::vector<int32_t> layer_top_k = {});
std::unique_ptr<RowFetcher> MakeStoreFetcher(KvClient* store, const SelectParams& params,
                                             std::vector<int32_t> layer_top_k = {});

}  // namespace tailor
