#include "kvstore/select/score_impl.h"

namespace tailor {

void ScorePageAvx512(std::span<const ChannelTerm> terms, float* scores) {
  ScorePageLoop(terms, scores);
}

}  // namespace tailor
