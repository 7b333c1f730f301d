// The online self-check: how much of the exact attention mass a sparse layer's decode step
// attended, and how far its output is from the exact one (ALGORITHM §6). Measured for one KV head
// of every sparse layer at a few positions, against exact attention next to the rows.
//
// When is a function of the position alone, and what follows from it of the measured mass: so a
// replayed or moved turn checks, and grows its budget, exactly as the first run did.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kvstore/client/kv_client.h"

namespace tailor {

// Attention of one KV head's query group over some set of tokens.
struct PartialAttention {
  std::span<const float> lse;  // [group], natural log of the softmax's sum
  std::span<const float> out;  // [group][head_dim]
};

struct HeadCheck {
  double captured_mass = 1;  // of the exact attention's, in [0, 1], mean over the group
  double output_error = 0;   // ||o - o_exact|| / ||o_exact||, mean over the group
};

// `attended` is sink, fetched rows and window; `candidates` is all that could have been fetched,
// and `fetched` what was: the exact attention is attended + candidates - fetched. `out`
// [group][head_dim] is what the layer put out: attended's, or with an estimate of the rest. In
// double: a captured mass is good to FLT_EPSILON times the scores' size.
HeadCheck CompareWithExact(const PartialAttention& attended, const PartialAttention& candidates,
                           const PartialAttention& fetched, std::span<const float> out);

// What a sequence's checks found since they were last taken.
struct CheckTotals {
  int64_t heads = 0;             // checked
  double captured_mass_sum = 0;  // over heads
  double worst_captured_mass = 1;
  double output_error_sum = 0;

  void Add(const HeadCheck& check);
};

// One decode step's checks, layer by layer.
class StepCheck {
 public:
  struct Head {
    ExactQuery query;
    std::vector<float> attended_lse, attended_out, fetched_lse, fetched_out, out;
  };

  void Add(Head head) { heads_.push_back(std::move(head)); }
  bool empty() const { return heads_.empty(); }
  std::vector<ExactQuery> Queries() const;
  // answers: [heads], in order. Returns the mean captured mass.
  double Finish(std::span<const ExactOutput> answers, CheckTotals& totals);

 private:
  std::vector<Head> heads_;
};

}  // namespace tailor
