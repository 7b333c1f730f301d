// The scores of one KV head's tokens: from the index for all, from exact keys for a few.
// ALGORITHM §3.3-3.4.
#pragma once

#include <span>
#include <vector>

#include "kvstore/select/kernels.h"
#include "kvstore/select/select.h"

namespace tailor {

// Fills scratch.queries, .channels and .scores [tokens of the sealed pages].
//   kMean:  score[t] = q_mean . K'[t] over the critical channels
//   kHeads: score[t] = sum over g of Exp2(s_g[t] - max s_g) / sum over t of the same,
//           s_g[t] = q_g . K'[t] * log2(e) / sqrt(head_dim): the group's attention mass, were K'
//           exact
// K' = code * scale + min of the index; q * scale is rounded to int8 per page and query.
void ScoreTokens(const SelectInput& input, int32_t kv_head, const SelectKernels& kernels,
                 SelectScratch& scratch);

// scratch.scores[i] = the same score of scratch.chosen[i] (positions less sink_tokens) from the
// exact key in all channels; the kHeads shares stay those of ScoreTokens.
void RescoreChosen(const SelectInput& input, int32_t kv_head, const SelectKernels& kernels,
                   SelectScratch& scratch);

}  // namespace tailor
