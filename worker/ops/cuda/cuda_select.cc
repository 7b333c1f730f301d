#include "worker/ops/cuda/cuda_select.h"

#include "common/status.h"
#include "common/types.h"
#include "worker/ops/cuda/select_math.h"

namespace tailor::cuda {
namespace {

SelectTable TableOf(const DeviceSelection& s) {
  const auto group = static_cast<int32_t>(s.q.cols / s.head_dim / s.kv_heads);
  return {.pages = s.pages,
          .page_count = s.page_count,
          .kv_heads = s.kv_heads,
          .head_dim = s.head_dim,
          .index_slice = s.index_slice,
          .row_slice = s.row_slice,
          .strides = s.strides,
          .queries = s.rule == ScoreRule::kMeanQuery ? 1 : group,
          .rule = s.rule,
          .channels = s.channels,
          .padded = (s.channels + kIndexLanes - 1) / kIndexLanes * kIndexLanes,
          .cache = s.cache};
}

}  // namespace

SelectWork CudaSelect::TakeWork(const SelectTable& table) {
  Scratch& scratch = context_.scratch();
  scratch.Begin();
  const int64_t queries = int64_t{table.kv_heads} * table.queries;
  const int64_t pages = table.page_count, tokens = pages * kPageTokens;
  SelectWork work;
  work.queries = scratch.Take<float>(queries * table.head_dim, context_);
  work.critical = scratch.Take<float>(queries * table.padded, context_);
  work.channels = scratch.Take<int32_t>(int64_t{table.kv_heads} * table.channels, context_);
  work.largest = scratch.Take<uint32_t>(queries, context_);
  work.raw = work.scores = scratch.Take<float>(queries * tokens, context_);
  if (table.rule == ScoreRule::kMeanQuery) return work;
  work.page_sums = scratch.Take<float>(queries * pages * kIndexLanes, context_);
  work.factors = scratch.Take<float>(queries, context_);
  work.scores = scratch.Take<float>(table.kv_heads * tokens, context_);
  return work;
}

void CudaSelect::Select(const DeviceSelection& s) {
  TS_CHECK(s.head_dim % kGroup == 0 && s.head_dim <= 128 && s.channels <= s.head_dim);
  const int32_t count = s.Count();
  if (count == 0) return;
  context_.Bind();
  const SelectTable table = TableOf(s);
  const SelectWork work = TakeWork(table);
  LaunchIndexScores(table, ToRows(s.q), context_.Put(s.kmax), work, context_.stream());
  // As SelectHead: with as many candidates as are wanted, nobody looks twice.
  const int32_t chosen = std::min(count + s.rescore_extra, s.Candidates());
  const int32_t tokens = s.page_count * kPageTokens;
  const auto top_k = [&](int32_t k, int32_t* out) {
    LaunchTopK(work.scores, tokens, s.sink_tokens, tokens, s.kv_heads, k, nullptr, out,
               context_.stream());
  };
  if (chosen == count) {
    top_k(count, s.tokens);
  } else {
    auto* names = context_.scratch().Take<int32_t>(int64_t{s.kv_heads} * chosen, context_);
    auto* scores = context_.scratch().Take<float>(int64_t{s.kv_heads} * chosen, context_);
    top_k(chosen, names);
    LaunchRescore(table, work, names, chosen, scores, context_.stream());
    LaunchTopK(scores, chosen, 0, chosen, s.kv_heads, count, names, s.tokens, context_.stream());
  }
  int32_t* sources = nullptr;
  if (s.cache.slots > 0) {
    sources = context_.scratch().Take<int32_t>(int64_t{s.kv_heads} * count, context_);
    LaunchPlanRows(table, s.tokens, count, sources, s.report, context_.stream());
  }
  LaunchGather(table, s.tokens, sources, count, reinterpret_cast<uint16_t*>(s.rows), s.report,
               context_.stream());
  CheckCuda(cudaGetLastError(), "Select");
}

void CudaSelect::CopyIndex(std::span<const IndexPage> pages, const IndexStrides& strides,
                           int32_t slices, int32_t head_dim, std::span<std::byte* const> sketches) {
  TS_CHECK(pages.size() == sketches.size());
  context_.Bind();
  constexpr size_t kAtOnce = 16384;  // of the argument ring's sections
  for (size_t first = 0; first < pages.size(); first += kAtOnce) {
    const size_t count = std::min(kAtOnce, pages.size() - first);
    LaunchCopyIndex(context_.Put(pages.subspan(first, count)), strides, static_cast<int32_t>(count),
                    slices, head_dim, context_.Put(sketches.subspan(first, count)),
                    context_.stream());
  }
  CheckCuda(cudaGetLastError(), "CopyIndex");
}

}  // namespace tailor::cuda
