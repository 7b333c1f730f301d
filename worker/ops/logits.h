// What sampling asks of a row of logits where it lies, and the answer: a few KB of a vocabulary's
// half megabyte (Backend::ReduceLogits).
//
//   x_i     the logit of token i
//   a_i     with token i's adjustment: (x_i > 0 ? x_i / repetition : x_i * repetition) - subtract
//   v_i     a_i / temperature, the value; each operation in fp32, rounded by itself
//   sum     of e^(x_i - max x), in double
//   mass    of e^(v_i - max v), in double
//
// Every operation and the order of both sums are fixed (logit_math.h), so every backend gives the
// same bits. NaN ranks as -infinity and has no part in maximum or sums; a row with +infinity has
// sums without a meaning and its candidates all the same.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "common/types.h"
#include "worker/ops/logit_math.h"

namespace tailor {

inline constexpr int32_t kMaxLogitCandidates = 1024;  // of one row

// Asked of one row.
struct LogitQuery {
  std::span<const LogitAdjustment> adjustments = {};  // tokens ascending, each at most once
  float temperature = 1;                              // > 0
  int32_t candidates = 0;  // wanted; 0: nothing is; ..kMaxLogitCandidates
  bool mass = false;       // whether LogitReduction::mass is wanted
};

struct LogitReduction {
  std::vector<LogitCandidate> candidates;  // min(wanted, vocab), best first; ties to the lower id
  float max_logit = -std::numeric_limits<float>::infinity();
  double sum = 0;
  double mass = 0;  // 0 unless wanted

  double LogSumExp() const { return max_logit + std::log(sum); }
};

// Fills in maximum, sum and mass of `out` from the row's pieces, in their order.
void CombinePieces(std::span<const LogitPieceSums> pieces, LogitReduction* out);

}  // namespace tailor
