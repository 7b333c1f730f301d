#include "kvstore/select/select.h"

#include <algorithm>
#include <cstring>

#include "common/status.h"
#include "kvstore/select/row_check.h"
#include "kvstore/select/scores.h"
#include "kvstore/select/top_k.h"

namespace tailor {
RunningKmax::RunningKmax(const PoolShape& shape)
    : kv_heads_(shape.kv_heads),
      head_dim_(shape.head_dim),
      kmax_(shape.sparse_layers.size() * shape.kv_heads * shape.head_dim, 0.0f) {}

void RunningKmax::Extend(const PoolView& pool, std::span<const PageId> pages) {
  if (static_cast<int64_t>(pages.size()) < pages_covered_) {
    std::fill(kmax_.begin(), kmax_.end(), 0.0f);
    pages_covered_ = 0;
  }
  const auto layers = static_cast<int32_t>(pool.shape().sparse_layers.size());
  for (; pages_covered_ < static_cast<int64_t>(pages.size()); ++pages_covered_) {
    float* running = kmax_.data();
    for (int32_t rank = 0; rank < layers; ++rank) {
      for (int32_t head = 0; head < kv_heads_; ++head, running += head_dim_) {
        const float* page = pool.Kmax(rank, head, pages[pages_covered_]);
        for (int32_t c = 0; c < head_dim_; ++c) running[c] = std::max(running[c], page[c]);
      }
    }
  }
}

std::span<const float> RunningKmax::Of(int32_t sparse_rank, int32_t kv_head) const {
  const int64_t slice = int64_t{sparse_rank} * kv_heads_ + kv_head;
  return {kmax_.data() + slice * head_dim_, static_cast<size_t>(head_dim_)};
}

void PrepareSelection(const SelectInput& input, Selection* out) {
  const PoolShape& shape = input.pool->shape();
  TS_DCHECK(input.pool->layout().SparseRank(input.layer) >= 0);
  TS_DCHECK(input.kmax->pages_covered() == static_cast<int64_t>(input.sealed_pages.size()));
  const int64_t tokens = static_cast<int64_t>(input.sealed_pages.size()) * kPageTokens;
  const int64_t candidates = std::max<int64_t>(0, tokens - input.params.sink_tokens);
  out->count = static_cast<int32_t>(std::min<int64_t>(input.params.top_k, candidates));
  out->tokens.resize(int64_t{shape.kv_heads} * out->count);
  out->rows.resize(int64_t{shape.kv_heads} * out->count * 2 * shape.head_dim);
}

void SelectHead(const SelectInput& input, int32_t kv_head, SelectScratch& scratch, Selection* out) {
  static const SelectKernels& kKernels = ChooseSelectKernels();
  if (out->count == 0) return;
  const SelectParams& params = input.params;
  ScoreTokens(input, kv_head, kKernels, scratch);
  scratch.chosen.clear();
  TopK(std::span(scratch.scores).subspan(params.sink_tokens), out->count + params.rescore_extra,
       scratch.block_max, scratch.survivors, &scratch.chosen);
  if (scratch.chosen.size() > static_cast<size_t>(out->count)) {
    RescoreChosen(input, kv_head, kKernels, scratch);
    scratch.finalists.clear();
    TopK(scratch.scores, out->count, scratch.block_max, scratch.survivors, &scratch.finalists);
    for (int32_t& finalist : scratch.finalists) finalist = scratch.chosen[finalist];
    scratch.chosen.swap(scratch.finalists);
  }
  int32_t* tokens = out->tokens.data() + int64_t{kv_head} * out->count;
  for (int32_t i = 0; i < out->count; ++i) tokens[i] = scratch.chosen[i] + params.sink_tokens;
}

absl::Status GatherHead(const SelectInput& input, int32_t kv_head, Selection* selection) {
  constexpr int32_t kPrefetchRows = 8;
  const int64_t row = int64_t{2} * input.pool->shape().head_dim;
  const int64_t first = int64_t{kv_head} * selection->count;
  const std::span<const int32_t> tokens(selection->tokens.data() + first, selection->count);
  BFloat16* target = selection->rows.data() + first * row;
  const auto row_of = [&](int32_t t) {
    return input.pool->Rows(input.layer, kv_head, input.sealed_pages[t / kPageTokens]) +
           (t % kPageTokens) * row;
  };
  for (int32_t i = 0; i < selection->count; ++i, target += row) {
    if (i + kPrefetchRows < selection->count) {
      const BFloat16* ahead = row_of(tokens[i + kPrefetchRows]);
      for (int64_t c = 0; c < row; c += 32) __builtin_prefetch(ahead + c);
    }
    const int32_t t = tokens[i];
    std::memcpy(target, row_of(t), row * sizeof(BFloat16));
    const uint32_t* checks =
        input.pool->RowChecks(input.layer, kv_head, input.sealed_pages[t / kPageTokens]);
    // Of the copy: what is served is what was checked.
    if (RowCheck({target, static_cast<size_t>(row)}) != checks[t % kPageTokens]) {
      return absl::DataLossError(
          absl::StrCat("row check of layer ", input.layer, " head ", kv_head, " token ", t));
    }
  }
  return absl::OkStatus();
}

void Select(const SelectInput& input, SelectScratch& scratch, Selection* out) {
  PrepareSelection(input, out);
  for (int32_t head = 0; head < input.pool->shape().kv_heads; ++head) {
    SelectHead(input, head, scratch, out);
  }
}

absl::Status Gather(const SelectInput& input, Selection* selection) {
  for (int32_t head = 0; head < input.pool->shape().kv_heads; ++head) {
    TS_RETURN_IF_ERROR(GatherHead(input, head, selection));
  }
  return absl::OkStatus();
}

absl::Status ValidateSelectParams(const SelectParams& params, const PoolShape& shape) {
  const auto check = [](const char* what, int64_t value, int64_t low, int64_t high) {
    if (value >= low && value <= high) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat(what, " is ", value, ", limit ", low, "..", high));
  };
  TS_RETURN_IF_ERROR(check("channels", params.channels, 1, shape.head_dim));
  TS_RETURN_IF_ERROR(check("top_k", params.top_k, 1, kMaxTopK));
  TS_RETURN_IF_ERROR(check("rescore_extra", params.rescore_extra, 0, kMaxTopK));
  TS_RETURN_IF_ERROR(check("group", static_cast<int64_t>(params.group), 0, 1));
  return check("sink_tokens", params.sink_tokens, 0, kPageTokens);
}

}  // namespace tailor
