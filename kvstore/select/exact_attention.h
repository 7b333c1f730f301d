// Exact attention of one KV head over every candidate of a selection: what the online self-check
// compares the hybrid cache with (ALGORITHM §6). It runs next to the rows, like the selection itself.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kvstore/layout.h"

namespace tailor {

struct ExactInput {
  const PoolView* pool = nullptr;
  int32_t layer = 0;
  int32_t kv_head = 0;
  std::span<const PageId> sealed_pages;  // candidates are their tokens, without the sink
  int32_t sink_tokens = 0;
  std::span<const float> q;  // [group * head_dim]: the true query of the head's group, roped
};

// Of each query head of the group, over the candidates C:
//   lse[h] = log sum_C e^(q_h . K[t] / sqrt(head_dim)),   out[h] = sum_C softmax_C(t) V[t]
struct ExactOutput {
  std::vector<float> lse;  // [group]; -infinity without candidates
  std::vector<float> out;  // [group][head_dim]; zero without candidates
};

struct ExactScratch {
  std::vector<float> rows;   // [page_tokens][2][head_dim]
  std::vector<double> sums;  // [group][head_dim]
};

// Scores are fp32 dot products of sixteen partial sums, everything after them double. Verifies the
// check of each row it reads. Errors: DataLoss as GatherHead; `result` is then undefined.
absl::Status AttendExactly(const ExactInput& input, ExactScratch& scratch, ExactOutput* result);

}  // namespace tailor
