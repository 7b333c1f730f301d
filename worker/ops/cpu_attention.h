// Attention of the CPU backend over tiles of 128 keys. Keys are cut at fixed places, counted from the
// first token: tiles of 128 in splits of 256; each split has a softmax of its own and splits merge in
// order. So a query's result depends neither on its neighbours in the call nor on the thread count.
#pragma once

#include <functional>
#include <vector>

#include "common/cpu/thread_pool.h"
#include "worker/ops/attention.h"
#include "worker/ops/cpu_kernels.h"

namespace tailor {

class CpuAttention {
 public:
  CpuAttention(const CpuKernels& kernels, ThreadPool* pool);
  void Attend(const RowAttention& attention);
  void AttendQuantized(const QuantizedAttention& attention);

 private:
  // The keys of one call: quantized pages first, then rows.
  struct Keys {
    std::span<const std::span<const std::byte* const>> pages;
    std::span<const std::span<const RowSegment>> segments;
    QuantizedPageShape shape;
    int64_t page_tokens, tokens;  // tokens: pages and rows together
    int32_t kv_heads, head_dim;
  };
  // `count` queries from `first` on, of the query heads of one KV head.
  struct QueryBlock {
    int32_t kv_head;
    int64_t first, count;
  };
  struct Scratch {
    std::vector<float> keys, values;   // tile
    std::vector<float> q, out, part;   // [rows][head_dim]
    std::vector<SoftmaxState> state, part_state;
    std::vector<int32_t> visible;
    std::vector<const BFloat16*> rows;
  };
  struct Call {
    Keys keys;
    MatrixView<const float> q;
    Mask mask;
    MatrixView<float> out, lse;
    int32_t group;  // query heads a KV head
    Keys means = {};  // only with one query
    float mean_log_weight = 0;
    int64_t Visible(const Keys& of, int64_t query) const {
      return mask == Mask::kCausal ? of.tokens - (q.rows - 1 - query) : of.tokens;
    }
  };

  void Run(const Call& call);
  void RunByQueries(const Call& call);
  void RunBySplits(const Call& call);
  // Adds splits [first, last) of split_out_, their maxima raised by `log_weight`, to s.out,
  // s.state.
  void MergeSplits(int64_t first, int64_t last, int64_t rows, int32_t head_dim, float log_weight,
                   Scratch& s) const;
  void LoadTile(const Keys& keys, int32_t kv_head, int64_t first, Scratch& s, KvTile* tile) const;
  void GatherQueries(const Call& call, const QueryBlock& block, Scratch& s) const;
  // One split's softmax of the gathered queries into s.part, s.part_state. keys: the call's keys or
  // means.
  void RunSplit(const Call& call, const Keys& keys, const QueryBlock& block, int64_t split,
                Scratch& s) const;
  void EmitOut(const Call& call, const QueryBlock& block, const Scratch& s) const;
  void EmitLse(const Call& call, const QueryBlock& block, const Scratch& s) const;

  const CpuKernels& kernels_;
  ThreadPool* pool_;
  std::vector<Scratch> scratch_;      // [threads]
  std::vector<float> split_out_;      // [kv_heads][splits][rows][head_dim]
  std::vector<SoftmaxState> split_state_;
};

}  // namespace tailor
