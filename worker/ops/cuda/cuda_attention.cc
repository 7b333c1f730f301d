#include "worker/ops/cuda/cuda_attention.h"

#include "common/status.h"

namespace tailor::cuda {
namespace {

Rows<float> LseRows(const MatrixView<float>& lse) {
  return lse.data == nullptr ? Rows<float>{} : ToRows(lse);
}

}  // namespace

KeyTable CudaAttention::PutKeys(std::span<const std::span<const RowSegment>> segments,
                                int32_t head_dim) {
  segments_.clear();
  starts_.assign(1, 0);
  int32_t tokens = 0;
  for (const std::span<const RowSegment> head : segments) {
    int32_t first = 0;
    for (const RowSegment& segment : head) {
      if (segment.tokens == 0) continue;
      segments_.push_back({reinterpret_cast<const uint16_t*>(segment.rows), first, segment.tokens});
      first += segment.tokens;
    }
    starts_.push_back(static_cast<int32_t>(segments_.size()));
    TS_DCHECK(starts_.size() == 2 || first == tokens);
    tokens = first;
  }
  return {.segments = context_.Put(std::span<const SegmentRef>(segments_)),
          .starts = context_.Put(std::span<const int32_t>(starts_)),
          .kv_heads = static_cast<int32_t>(segments.size()),
          .head_dim = head_dim,
          .tokens = tokens};
}

Partials CudaAttention::TakePartials(int64_t queries, int64_t q_heads, int32_t splits,
                                     int32_t head_dim) {
  const int64_t slots = queries * q_heads * splits;
  context_.scratch().Begin();
  return {.out = context_.scratch().Take<float>(slots * head_dim, context_),
          .state = context_.scratch().Take<PartialSoftmax>(slots, context_),
          .splits = splits};
}

void CudaAttention::Attend(const RowAttention& a) {
  TS_CHECK(a.means.empty() || a.q.rows == 1);
  const KeyTable keys = PutKeys(a.segments, a.head_dim);
  const QueryTable query = {.q = ToRows(a.q),
                            .q_heads = static_cast<int32_t>(a.q.cols / a.head_dim),
                            .causal = a.mask == Mask::kCausal};
  if (a.q.rows > kSkinnyRows) {
    return LaunchAttendPrefill(query, keys, ToRows(a.out), LseRows(a.lse), context_.stream());
  }
  const KeyTable means = a.means.empty() ? KeyTable{} : PutKeys(a.means, a.head_dim);
  const SplitPlan plan = PlanSplits(keys.tokens, keys.kv_heads, context_.multiprocessors());
  const SplitPlan mean_plan =
      means.tokens == 0 ? SplitPlan{}
                        : PlanSplits(means.tokens, means.kv_heads, context_.multiprocessors());
  Partials partials =
      TakePartials(a.q.rows, query.q_heads, plan.splits + mean_plan.splits, a.head_dim);
  partials.mean_splits = mean_plan.splits;
  partials.mean_log_weight = a.mean_log_weight;
  LaunchAttendRows(query, keys, plan, 0, partials, context_.stream());
  if (means.tokens > 0) {
    LaunchAttendRows(query, means, mean_plan, plan.splits, partials, context_.stream());
  }
  LaunchMergeSplits(partials, a.head_dim, query.q_heads, ToRows(a.out), LseRows(a.lse),
                    context_.stream());
}

void CudaAttention::AttendQuantized(const QuantizedAttention& a) {
  const auto kv_heads = static_cast<int32_t>(a.residual.size());
  const auto count = kv_heads > 0 ? static_cast<int32_t>(a.pages[0].size()) : 0;
  const QueryTable query = {.q = ToRows(a.q),
                            .q_heads = static_cast<int32_t>(a.q.cols / a.shape.head_dim),
                            .causal = false};
  pages_.clear();
  for (const std::span<const std::byte* const> head : a.pages) {
    pages_.insert(pages_.end(), head.begin(), head.end());
  }
  const KeyTable residual = PutKeys(a.residual, a.shape.head_dim);
  const SplitPlan page_plan = PlanPageSplits(count, kv_heads, context_.multiprocessors());
  const SplitPlan row_plan = PlanSplits(residual.tokens, kv_heads, context_.multiprocessors());
  const Partials partials =
      TakePartials(1, query.q_heads, page_plan.splits + row_plan.splits, a.shape.head_dim);
  if (count > 0) {
    const std::byte* const* pages = context_.Put(std::span<const std::byte* const>(pages_));
    LaunchAttendPages(query, pages, count, kv_heads, {a.shape.bits, a.shape.head_dim}, page_plan,
                      partials, context_.stream());
  }
  if (residual.tokens > 0) {
    LaunchAttendRows(query, residual, row_plan, page_plan.splits, partials, context_.stream());
  }
  LaunchMergeSplits(partials, a.shape.head_dim, query.q_heads, ToRows(a.out), {},
                    context_.stream());
}

}  // namespace tailor::cuda
