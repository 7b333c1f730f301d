// Draws the next tokens of several turns from their rows of logits: one reduction on the device and
// one small copy for all of them; a row's logits are copied only when its draw asks for them.
#pragma once

#include <span>
#include <vector>

#include "worker/ops/backend.h"
#include "worker/turn.h"

namespace tailor {

class TurnSampler {
 public:
  explicit TurnSampler(Backend* backend) : backend_(*backend) {}
  // The sample of turns[i] from row i of `logits` [turns or more][vocab]; a null turn's row is
  // passed over and its sample means nothing. Valid until the next call.
  std::span<const Sample> Draw(MatrixView<const float> logits, std::span<Turn* const> turns);

 private:
  Backend& backend_;
  std::vector<LogitQuery> queries_;
  std::vector<LogitReduction> reduced_;
  std::vector<Sample> samples_;
  std::vector<float> row_;  // [vocab], of the one draw that asked for it
};

}  // namespace tailor
