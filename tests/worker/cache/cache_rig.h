// What the tests of the caches share: a store in this process, a pool whose rows are known
// functions of (layer, head, position), a sequence driven through prefill and decode without a
// model, and the reference of what an attention over given positions is.
#pragma once

#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "common/status.h"
#include "kvstore/client/local_kv_client.h"
#include "kvstore/page_store.h"
#include "tests/kvstore/client/written_sequence.h"
#include "tests/worker/ops/attention_case.h"
#include "worker/cache/sequence_cache.h"
#include "worker/ops/reference.h"

namespace tailor {

inline constexpr int32_t kHeadDim = 64;
inline constexpr int32_t kHeads = 2;  // KV heads
inline constexpr int32_t kQHeads = 4;
inline constexpr int32_t kRowElements = 2 * kHeadDim;
inline constexpr TokenId kFirstToken[] = {
    1000};  // of KnownTokens(1, ...): a sequence needs a history

// Three layers, the first quantized; the tail is left out.
inline LayerPolicy TestPolicy() {
  LayerPolicy policy;
  policy.quantized_layers = {0};
  policy.bits = 2;
  policy.tail = Tail::kNone;
  policy.select = {.channels = 8, .top_k = 32, .sink_tokens = policy.sink_tokens};
  return policy;
}

// K and V of one token of one head, [2][head_dim].
inline std::vector<BFloat16> KnownRow(int32_t layer, int32_t head, int64_t position) {
  std::vector<BFloat16> row;
  for (int i = 0; i < kRowElements; ++i) {
    row.push_back(ToBFloat16(KnownValue(1, layer, head, position, i / kHeadDim, i % kHeadDim)));
  }
  return row;
}

inline std::vector<BFloat16> KnownRows(int32_t layer, int32_t head,
                                       std::span<const int64_t> positions) {
  std::vector<BFloat16> rows;
  for (const int64_t position : positions) {
    const auto row = KnownRow(layer, head, position);
    rows.insert(rows.end(), row.begin(), row.end());
  }
  return rows;
}

inline std::vector<int64_t> Positions(int64_t first, int64_t last) {
  std::vector<int64_t> positions(last - first);
  std::iota(positions.begin(), positions.end(), first);
  return positions;
}

// A query of every head, the same for all layers.
inline HostMatrix TestQuery(uint64_t seed = 5) {
  return RandomMatrix(1, kQHeads * kHeadDim, seed, 2);
}

// Rows of each head as AttendRef takes them, and as floats.
class HeadSegments {
 public:
  explicit HeadSegments(const std::vector<std::vector<BFloat16>>& rows) {
    for (const auto& head : rows) {
      segments_.push_back({head.data(), static_cast<int32_t>(head.size() / kRowElements)});
    }
    for (const RowSegment& segment : segments_) heads_.emplace_back(&segment, 1);
  }
  std::span<const std::span<const RowSegment>> view() const { return heads_; }

 private:
  std::vector<RowSegment> segments_;
  std::vector<std::span<const RowSegment>> heads_;
};

// AttendRef of `q` over rows[head] and means[head], and how far floats may be from it.
struct Attended {
  HostMatrix out{1, kQHeads* kHeadDim};
  double tolerance = 0;
};
inline Attended AttendReference(HostMatrix q, const std::vector<std::vector<BFloat16>>& rows,
                                const std::vector<std::vector<BFloat16>>& means = {},
                                float mean_log_weight = 0) {
  Attended want;
  const HeadSegments segments(rows), mean_segments(means);
  AttendRef({.q = q.view(),
             .segments = segments.view(),
             .head_dim = kHeadDim,
             .mask = Mask::kNone,
             .out = want.out.view(),
             .lse = {},
             .means = mean_segments.view(),
             .mean_log_weight = mean_log_weight});
  std::vector<std::vector<float>> floats;
  for (size_t head = 0; head < rows.size(); ++head) {
    floats.push_back(ToFloats(rows[head]));
    if (means.empty()) continue;
    const std::vector<float> more = ToFloats(means[head]);
    floats.back().insert(floats.back().end(), more.begin(), more.end());
  }
  AttentionTolerance tolerance = ToleranceOf(q, floats, kHeadDim);
  if (!means.empty()) tolerance.weight += MeansCase::MoreRounding(mean_log_weight);
  want.tolerance = tolerance.out();
  return want;
}
inline Attended AttendReference(const HostMatrix& q, int32_t layer,
                                std::span<const int64_t> positions,
                                const std::vector<std::vector<BFloat16>>& means = {},
                                float mean_log_weight = 0) {
  std::vector<std::vector<BFloat16>> rows;
  for (int32_t head = 0; head < kHeads; ++head) rows.push_back(KnownRows(layer, head, positions));
  return AttendReference(q, rows, means, mean_log_weight);
}

// A worker: backend, client and pool of one policy over a store.
struct CacheRig {
  LayerPolicy policy;
  std::shared_ptr<PageStore> store;
  std::unique_ptr<Backend> ops;
  std::unique_ptr<KvClient> client;
  PoolView pool;

  explicit CacheRig(const LayerPolicy& policy_in = TestPolicy(), int64_t memory_limit_bytes = 0,
                    int threads = 1, std::shared_ptr<PageStore> shared = nullptr)
      : policy(policy_in), store(std::move(shared)) {
    if (store == nullptr) store = *PageStore::Create({.arena_bytes = int64_t{16} << 20});
    ops = *MakeCpuBackend({.threads = threads, .memory_limit_bytes = memory_limit_bytes});
    client = std::make_unique<LocalKvClient>(store);
    PoolSpec spec;
    spec.policy.bytes[0] = static_cast<uint8_t>(policy.quantized_layers.size());
    spec.shape = {.layers = 3,
                  .kv_heads = kHeads,
                  .head_dim = kHeadDim,
                  .sparse_layers = policy.SparseLayers(3)};
    pool = *client->OpenPool(spec);
  }

  absl::StatusOr<std::unique_ptr<SequenceCache>> Open(
      const std::string& name, CacheMode mode, std::span<const TokenId> history = kFirstToken) {
    TS_ASSIGN_OR_RETURN(SequenceGrant grant,
                        client->OpenSequence({.tenant = "t", .name = name}, history));
    return SequenceCache::Make(ops.get(), client.get(), &pool, policy, mode, std::move(grant));
  }
};

// Runs a sequence as the model does, with known rows in place of computed ones.
class DrivenSequence {
 public:
  DrivenSequence(CacheRig& rig, SequenceCache& cache) : rig_(rig), cache_(cache) {}

  // Layer-major, all new tokens at once.
  absl::Status PrefillTo(int64_t tokens) {
    const int64_t first = cache_.tokens();
    if (first == tokens) return absl::OkStatus();
    TS_RETURN_IF_ERROR(cache_.Reserve(tokens));
    for (int32_t layer = 0; layer < 3; ++layer) {
      for (int64_t position = first; position < tokens; ++position) {
        for (int32_t head = 0; head < kHeads; ++head) {
          const auto row = KnownRow(layer, head, position);
          std::copy(row.begin(), row.end(), cache_.StoreRow(layer, head, position));
        }
      }
      TS_RETURN_IF_ERROR(cache_.ExtendLayer(layer, tokens));
    }
    const auto ids = KnownTokens(1, tokens);
    return cache_.CommitPrefill(std::span(ids).subspan(first));
  }

  // One token; what each layer attended to it with `q`: [layers][1][q_heads * head_dim].
  absl::StatusOr<std::vector<HostMatrix>> Decode(const HostMatrix& q) {
    const DeviceMatrix device_q(*rig_.ops, q);
    std::vector<HostMatrix> outs;
    for (int32_t layer = 0; layer < 3; ++layer) {
      if (cache_.Fetches(layer))
        TS_RETURN_IF_ERROR(cache_.PostFetch(layer, device_q.view().row(0)));
      WriteNewRows(layer);
      const DeviceMatrix out(*rig_.ops, 1, q.cols);
      TS_RETURN_IF_ERROR(cache_.Attend(layer, device_q.view(), out.view()));
      outs.push_back(out.Download());
    }
    TS_RETURN_IF_ERROR(cache_.CommitToken(KnownTokens(1, cache_.tokens() + 1).back()));
    return outs;
  }

 private:
  void WriteNewRows(int32_t layer) {
    std::vector<BFloat16*> store_rows(kHeads), window_rows(kHeads);
    cache_.NewRows(layer, store_rows, window_rows);
    for (int32_t head = 0; head < kHeads; ++head) {
      const auto row = KnownRow(layer, head, cache_.tokens());
      std::copy(row.begin(), row.end(), store_rows[head]);
      rig_.ops->Upload(std::as_bytes(std::span(row)), window_rows[head]);
    }
  }

  CacheRig& rig_;
  SequenceCache& cache_;
};

inline void ExpectAttended(const HostMatrix& got, const Attended& want) {
  ExpectNear(got, want.out, [&](int64_t, int64_t) { return want.tolerance; });
}

}  // namespace tailor
