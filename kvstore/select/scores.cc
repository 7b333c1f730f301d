#include "kvstore/select/scores.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "common/status.h"
#include "kvstore/select/critical_channels.h"
#include "kvstore/select/key_codes.h"

namespace tailor {
namespace {

constexpr float kLog2E = 1.44269504f;
constexpr size_t kMaxChannels = 1024;  // head_dim's limit
constexpr size_t kPrefetchPages = 4;

int32_t Padded(size_t channels) {
  return static_cast<int32_t>((channels + kLanes - 1) / kLanes * kLanes);
}

// Queries as they are scored, and the channels that decide: [count][head_dim].
void TakeQueries(const SelectInput& input, int32_t sparse_rank, int32_t head, SelectScratch& s) {
  const size_t head_dim = input.pool->shape().head_dim;
  const size_t floats = input.q.size() / input.pool->shape().kv_heads;
  const std::span<const float> group = input.q.subspan(head * floats, floats);
  s.importance.resize(head_dim);
  if (input.params.group == GroupRule::kMean) {
    GroupMean(group, &s.importance);
    s.queries = s.importance;
  } else {
    GroupMagnitude(group, &s.importance);
    const float factor = kLog2E / std::sqrt(static_cast<float>(head_dim));
    s.queries.assign(group.begin(), group.end());
    for (float& q : s.queries) q *= factor;
  }
  CriticalChannels(s.importance, input.kmax->Of(sparse_rank, head), input.params.channels,
                   &s.channels);
}

// One block of queries over all pages: scratch.block_scores [queries][tokens].
class BlockScorer {
 public:
  BlockScorer(const SelectInput& input, int32_t sparse_rank, int32_t head, SelectScratch& scratch)
      : input_(input),
        rank_(sparse_rank),
        head_(head),
        s_(scratch),
        padded_(Padded(scratch.channels.size())),
        limit_(WeightLimit(static_cast<int32_t>(scratch.channels.size()))) {
    s_.scale.assign(padded_, 0.0f);
    s_.min.assign(padded_, 0.0f);
    s_.weights.assign(size_t{kQueryBlock} * padded_, 0);
  }

  void Run(size_t first_query, size_t queries, const SelectKernels& kernels, float* scores) {
    TakeChannels(first_query, queries);
    const int64_t stride = static_cast<int64_t>(input_.sealed_pages.size()) * kPageTokens;
    std::array<QueryTerms, kQueryBlock> terms;
    for (size_t p = 0; p < input_.sealed_pages.size(); ++p) {
      const auto codes = TakePage(p);
      for (size_t i = 0; i < queries; ++i) {
        terms[i] = kernels.weigh(s_.block_q.data() + i * padded_, s_.scale.data(), s_.min.data(),
                                 padded_, limit_, s_.weights.data() + i * padded_);
      }
      kernels.score_page(codes, s_.weights.data(), padded_, std::span(terms).first(queries),
                         scores + p * kPageTokens, stride);
    }
  }

 private:
  // The critical channels of the block's queries, side by side.
  void TakeChannels(size_t first_query, size_t queries) {
    const size_t head_dim = input_.pool->shape().head_dim;
    s_.block_q.assign(queries * padded_, 0.0f);
    for (size_t i = 0; i < queries; ++i) {
      for (size_t c = 0; c < s_.channels.size(); ++c) {
        s_.block_q[i * padded_ + c] = s_.queries[(first_query + i) * head_dim + s_.channels[c]];
      }
    }
  }

  // Scale, min and codes of the critical channels; an odd last one is paired with itself, weight 0.
  std::span<const uint8_t* const> TakePage(size_t p) {
    const PoolView& pool = *input_.pool;
    if (p + kPrefetchPages < input_.sealed_pages.size()) {
      // A page's channels are a cache line each, too scattered for the hardware to foresee.
      const uint8_t* ahead = pool.Index(rank_, head_, input_.sealed_pages[p + kPrefetchPages]);
      for (const int32_t c : s_.channels) __builtin_prefetch(ahead + int64_t{c} * kCodeBytes);
    }
    const PageId page = input_.sealed_pages[p];
    const uint8_t* index = pool.Index(rank_, head_, page);
    const float* scale = pool.IndexScale(rank_, head_, page);
    const float* min = pool.IndexMin(rank_, head_, page);
    const size_t count = s_.channels.size();
    for (size_t i = 0; i < count; ++i) {
      const int32_t c = s_.channels[i];
      codes_[i] = index + int64_t{c} * kCodeBytes;
      s_.scale[i] = scale[c];
      s_.min[i] = min[c];
    }
    codes_[count] = codes_[count - 1];
    return std::span(codes_).first(count + count % 2);
  }

  const SelectInput& input_;
  const int32_t rank_, head_;
  SelectScratch& s_;
  const int32_t padded_, limit_;
  std::array<const uint8_t*, kMaxChannels + 1> codes_;
};

}  // namespace

void ScoreTokens(const SelectInput& input, int32_t kv_head, const SelectKernels& kernels,
                 SelectScratch& s) {
  const int32_t rank = input.pool->layout().SparseRank(input.layer);
  const size_t tokens = input.sealed_pages.size() * kPageTokens;
  const size_t head_dim = input.pool->shape().head_dim;
  TakeQueries(input, rank, kv_head, s);
  TS_DCHECK(s.channels.size() <= kMaxChannels);
  BlockScorer scorer(input, rank, kv_head, s);
  if (input.params.group == GroupRule::kMean) {
    s.scores.resize(tokens);
    return scorer.Run(0, 1, kernels, s.scores.data());
  }
  s.scores.assign(tokens, 0.0f);
  s.block_scores.resize(kQueryBlock * tokens);
  s.shares.clear();
  const size_t queries = s.queries.size() / head_dim;
  for (size_t first = 0; first < queries; first += kQueryBlock) {
    const size_t block = std::min<size_t>(kQueryBlock, queries - first);
    scorer.Run(first, block, kernels, s.block_scores.data());
    for (size_t i = 0; i < block; ++i) {
      float* scores = s.block_scores.data() + i * tokens;
      const auto n = static_cast<int64_t>(tokens);
      const ScoreShare& share = s.shares.emplace_back(kernels.exponents(scores, n));
      kernels.add(scores, share.factor, s.scores.data(), n);
    }
  }
}

void RescoreChosen(const SelectInput& input, int32_t kv_head, const SelectKernels& kernels,
                   SelectScratch& s) {
  constexpr size_t kPrefetchRows = 8;
  const int32_t head_dim = input.pool->shape().head_dim;
  const auto key_of = [&](int32_t chosen) {
    const int32_t t = chosen + input.params.sink_tokens;
    return input.pool->Rows(input.layer, kv_head, input.sealed_pages[t / kPageTokens]) +
           int64_t{t % kPageTokens} * 2 * head_dim;
  };
  const size_t queries = s.queries.size() / head_dim;
  s.scores.assign(s.chosen.size(), 0.0f);
  for (size_t i = 0; i < s.chosen.size(); ++i) {
    if (i + kPrefetchRows < s.chosen.size()) {
      const BFloat16* ahead = key_of(s.chosen[i + kPrefetchRows]);
      for (int32_t c = 0; c < head_dim; c += 32) __builtin_prefetch(ahead + c);
    }
    const BFloat16* key = key_of(s.chosen[i]);
    for (size_t g = 0; g < queries; ++g) {
      const float dot = kernels.dot(s.queries.data() + g * head_dim, key, head_dim);
      s.scores[i] += input.params.group == GroupRule::kMean
                         ? dot
                         : Exp2(dot - s.shares[g].largest) * s.shares[g].factor;
    }
  }
}

}  // namespace tailor
