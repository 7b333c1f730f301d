#include "worker/ops/cpu_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/status.h"
#include "common/types.h"

namespace tailor {
namespace {

constexpr int64_t kSplitTokens = 2 * kTileTokens;
constexpr int64_t kQueryBlock = 32;     // queries that share a tile's conversion to fp32
constexpr int64_t kFewQueries = 8;      // below: parallel over splits instead of queries
constexpr SoftmaxState kEmpty = {-std::numeric_limits<float>::infinity(), 0.0f};

int64_t CountTokens(std::span<const RowSegment> segments) {
  int64_t tokens = 0;
  for (const RowSegment& segment : segments) tokens += segment.tokens;
  return tokens;
}

// Pointers to rows [first, first + count) of a head's segments.
void CollectRows(std::span<const RowSegment> segments, int32_t head_dim, int64_t first,
                 int64_t count, std::vector<const BFloat16*>* out) {
  out->clear();
  for (const RowSegment& segment : segments) {
    if (first >= segment.tokens) {
      first -= segment.tokens;
      continue;
    }
    const int64_t taken = std::min(count, segment.tokens - first);
    for (int64_t t = first; t < first + taken; ++t) {
      out->push_back(segment.rows + t * 2 * head_dim);
    }
    count -= taken;
    first = 0;
    if (count == 0) return;
  }
}

}  // namespace

CpuAttention::CpuAttention(const CpuKernels& kernels, ThreadPool* pool)
    : kernels_(kernels), pool_(pool), scratch_(pool->threads()) {}

void CpuAttention::LoadTile(const Keys& keys, int32_t kv_head, int64_t first, Scratch& s,
                            KvTile* tile) const {
  s.keys.resize(int64_t{keys.head_dim} * kKeyStride);
  s.values.resize(int64_t{keys.head_dim} * kTileTokens);
  *tile = {.keys = s.keys.data(), .values = s.values.data(), .tokens = 0, .rows = nullptr};
  if (first < keys.page_tokens) {
    kernels_.load_page(keys.pages[kv_head][first / kPageTokens], keys.shape, tile);
    return;
  }
  const int64_t count = std::min<int64_t>(kTileTokens, keys.tokens - first);
  CollectRows(keys.segments[kv_head], keys.head_dim, first - keys.page_tokens, count, &s.rows);
  kernels_.load_rows(s.rows.data(), static_cast<int32_t>(count), keys.head_dim, tile);
}

void CpuAttention::GatherQueries(const Call& call, const QueryBlock& block, Scratch& s) const {
  const int32_t d = call.keys.head_dim;
  s.q.resize(block.count * call.group * d);
  for (int64_t i = 0; i < block.count; ++i) {
    const float* source = call.q.data + (block.first + i) * call.q.stride +
                          int64_t{block.kv_head} * call.group * d;
    std::copy_n(source, int64_t{call.group} * d, s.q.data() + i * call.group * d);
  }
}

void CpuAttention::RunSplit(const Call& call, const Keys& keys, const QueryBlock& block,
                            int64_t split, Scratch& s) const {
  const int32_t d = keys.head_dim;
  const int64_t rows = block.count * call.group;
  s.part.assign(rows * d, 0.0f);
  s.part_state.assign(rows, kEmpty);
  s.visible.resize(rows);
  const int64_t end =
      std::min((split + 1) * kSplitTokens, call.Visible(keys, block.first + block.count - 1));
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  for (int64_t first = split * kSplitTokens; first < end; first += kTileTokens) {
    KvTile tile;
    LoadTile(keys, block.kv_head, first, s, &tile);
    if (rows > kAttendRows && tile.rows != nullptr) kernels_.widen_values(d, &tile);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t visible = call.Visible(keys, block.first + r / call.group) - first;
      s.visible[r] = static_cast<int32_t>(std::clamp<int64_t>(visible, 0, tile.tokens));
    }
    kernels_.attend(tile, s.q.data(), s.visible.data(), static_cast<int>(rows), d, scale,
                    s.part_state.data(), s.part.data());
  }
}

void CpuAttention::EmitOut(const Call& call, const QueryBlock& block, const Scratch& s) const {
  const int32_t d = call.keys.head_dim;
  for (int64_t r = 0; r < block.count * call.group; ++r) {
    const int64_t query = block.first + r / call.group;
    const int64_t head = int64_t{block.kv_head} * call.group + r % call.group;
    float* target = call.out.data + query * call.out.stride + head * d;
    for (int32_t c = 0; c < d; ++c) target[c] = s.out[r * d + c] / s.state[r].sum;
  }
}

void CpuAttention::EmitLse(const Call& call, const QueryBlock& block, const Scratch& s) const {
  if (call.lse.data == nullptr) return;
  for (int64_t r = 0; r < block.count * call.group; ++r) {
    const int64_t query = block.first + r / call.group;
    const int64_t head = int64_t{block.kv_head} * call.group + r % call.group;
    call.lse.data[query * call.lse.stride + head] = s.state[r].max + std::log(s.state[r].sum);
  }
}

void CpuAttention::RunByQueries(const Call& call) {
  const int32_t d = call.keys.head_dim;
  const int64_t blocks = (call.q.rows + kQueryBlock - 1) / kQueryBlock;
  pool_->ForEach(blocks * call.keys.kv_heads, [&](int64_t unit, int worker) {
    // Long blocks first: the last one taken should be short.
    const int64_t index = blocks - 1 - unit / call.keys.kv_heads;
    const QueryBlock block = {
        .kv_head = static_cast<int32_t>(unit % call.keys.kv_heads),
        .first = index * kQueryBlock,
        .count = std::min(kQueryBlock, call.q.rows - index * kQueryBlock)};
    Scratch& s = scratch_[worker];
    const int64_t rows = block.count * call.group;
    GatherQueries(call, block, s);
    s.out.assign(rows * d, 0.0f);
    s.state.assign(rows, kEmpty);
    const int64_t end = call.Visible(call.keys, block.first + block.count - 1);
    for (int64_t split = 0; split * kSplitTokens < end; ++split) {
      RunSplit(call, call.keys, block, split, s);
      for (int64_t r = 0; r < rows; ++r) {
        kernels_.merge(s.part_state[r], s.part.data() + r * d, d, &s.state[r],
                       s.out.data() + r * d);
      }
    }
    EmitLse(call, block, s);
    EmitOut(call, block, s);
  });
}

void CpuAttention::MergeSplits(int64_t first, int64_t last, int64_t rows, int32_t head_dim,
                               float log_weight, Scratch& s) const {
  for (int64_t unit = first; unit < last; ++unit) {
    for (int64_t r = 0; r < rows; ++r) {
      SoftmaxState part = split_state_[unit * rows + r];
      part.max += log_weight;
      kernels_.merge(part, split_out_.data() + (unit * rows + r) * head_dim, head_dim, &s.state[r],
                     s.out.data() + r * head_dim);
    }
  }
}

void CpuAttention::RunBySplits(const Call& call) {
  const int32_t d = call.keys.head_dim;
  const int64_t rows = call.q.rows * call.group;
  const int64_t exact = (call.keys.tokens + kSplitTokens - 1) / kSplitTokens;
  const int64_t splits = exact + (call.means.tokens + kSplitTokens - 1) / kSplitTokens;
  const int64_t units = splits * call.keys.kv_heads;
  split_out_.resize(units * rows * d);
  split_state_.resize(units * rows);
  pool_->ForEach(units, [&](int64_t unit, int worker) {
    const QueryBlock block = {.kv_head = static_cast<int32_t>(unit / splits),
                              .first = 0, .count = call.q.rows};
    Scratch& s = scratch_[worker];
    GatherQueries(call, block, s);
    const int64_t split = unit % splits;
    RunSplit(call, split < exact ? call.keys : call.means, block,
             split < exact ? split : split - exact, s);
    std::copy(s.part.begin(), s.part.end(), split_out_.begin() + unit * rows * d);
    std::copy(s.part_state.begin(), s.part_state.end(), split_state_.begin() + unit * rows);
  });
  Scratch& s = scratch_[0];
  for (int32_t head = 0; head < call.keys.kv_heads; ++head) {
    s.out.assign(rows * d, 0.0f);
    s.state.assign(rows, kEmpty);
    const QueryBlock block = {.kv_head = head, .first = 0, .count = call.q.rows};
    MergeSplits(head * splits, head * splits + exact, rows, d, 0.0f, s);
    EmitLse(call, block, s);
    MergeSplits(head * splits + exact, (head + 1) * splits, rows, d, call.mean_log_weight, s);
    EmitOut(call, block, s);
  }
}

void CpuAttention::Run(const Call& call) {
  TS_DCHECK(call.keys.tokens >= (call.mask == Mask::kCausal ? call.q.rows : 1));
  if (call.q.rows <= kFewQueries) {
    RunBySplits(call);
  } else {
    RunByQueries(call);
  }
}

void CpuAttention::Attend(const RowAttention& a) {
  const auto kv_heads = static_cast<int32_t>(a.segments.size());
  const auto rows = [&](std::span<const std::span<const RowSegment>> segments) {
    return Keys{.pages = {},
                .segments = segments,
                .shape = {},
                .page_tokens = 0,
                .tokens = segments.empty() ? 0 : CountTokens(segments[0]),
                .kv_heads = kv_heads,
                .head_dim = a.head_dim};
  };
  TS_CHECK(a.means.empty() || a.q.rows == 1);
  Run({.keys = rows(a.segments),
       .q = a.q,
       .mask = a.mask,
       .out = a.out,
       .lse = a.lse,
       .group = static_cast<int32_t>(a.q.cols / a.head_dim / kv_heads),
       .means = rows(a.means),
       .mean_log_weight = a.mean_log_weight});
}

void CpuAttention::AttendQuantized(const QuantizedAttention& a) {
  const auto kv_heads = static_cast<int32_t>(a.residual.size());
  const int64_t page_tokens = static_cast<int64_t>(a.pages[0].size()) * kPageTokens;
  Run({.keys = {.pages = a.pages, .segments = a.residual, .shape = a.shape,
                .page_tokens = page_tokens,
                .tokens = page_tokens + CountTokens(a.residual[0]), .kv_heads = kv_heads,
                .head_dim = a.shape.head_dim},
       .q = a.q, .mask = Mask::kNone, .out = a.out, .lse = {},
       .group = static_cast<int32_t>(a.q.cols / a.shape.head_dim / kv_heads)});
}

}  // namespace tailor
