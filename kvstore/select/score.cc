#include "kvstore/select/score.h"

#include "common/cpu/simd_level.h"
#include "kvstore/select/score_impl.h"

namespace tailor {

void ScorePageScalar(std::span<const ChannelTerm> terms, float* scores) {
  ScorePageLoop(terms, scores);
}

ScorePageFn ChooseScorePage() {
  switch (DetectSimdLevel()) {
    case SimdLevel::kAvx512: return ScorePageAvx512;
    case SimdLevel::kAvx2: return ScorePageAvx2;
    case SimdLevel::kScalar: break;
  }
  return ScorePageScalar;
}

}  // namespace tailor
