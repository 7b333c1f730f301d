#include "worker/scheduler/scheduler.h"

#include <algorithm>

namespace tailor {

BatchPlan PlanBatch(std::span<const ScheduledTurn> turns, int max_running, int max_decode_rows) {
  BatchPlan plan;
  std::vector<uint64_t> decoding;
  std::optional<uint64_t> prefilling, waiting;
  int running = 0;
  const auto older = [](std::optional<uint64_t>& oldest, uint64_t turn) {
    if (!oldest.has_value() || turn < *oldest) oldest = turn;
  };
  for (const ScheduledTurn& turn : turns) {
    switch (turn.stage) {
      case TurnStage::kWaiting: older(waiting, turn.turn); break;
      case TurnStage::kPrefilling: older(prefilling, turn.turn); break;
      case TurnStage::kDecoding:
        decoding.push_back(turn.turn);
        break;
    }
    if (turn.stage != TurnStage::kWaiting) ++running;
  }
  std::sort(decoding.begin(), decoding.end());
  for (const uint64_t turn : decoding) {
    if (plan.decode.empty() || std::ssize(plan.decode.back()) == max_decode_rows) {
      plan.decode.emplace_back();
    }
    plan.decode.back().push_back(turn);
  }
  if (prefilling.has_value()) {
    plan.prefill = prefilling;
  } else if (running < max_running) {
    plan.prefill = waiting;
  }
  return plan;
}

}  // namespace tailor
