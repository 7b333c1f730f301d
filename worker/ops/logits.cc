#include "worker/ops/logits.h"

#include <algorithm>

namespace tailor {

void CombinePieces(std::span<const LogitPieceSums> pieces, LogitReduction* out) {
  float max_logit = -std::numeric_limits<float>::infinity(), max_value = max_logit;
  for (const LogitPieceSums& piece : pieces) {
    max_logit = std::max(max_logit, piece.max_logit);
    max_value = std::max(max_value, piece.max_value);
  }
  out->max_logit = max_logit;
  out->sum = out->mass = 0;
  for (const LogitPieceSums& piece : pieces) {
    out->sum += piece.sum * LogitTerm(piece.max_logit, max_logit);
    out->mass += piece.mass * LogitTerm(piece.max_value, max_value);
  }
}

}  // namespace tailor
