// Decides what the engine runs next; runs nothing. A pure function of a snapshot.
//
// Policy: every decoding turn makes one step, the oldest together, then the next oldest; then the
// oldest turn still in prefill makes one (layer, chunk) unit. So a long prefill delays another
// turn's next token by one unit, and prefills do not starve behind decodes. New turns start in
// order of arrival.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace tailor {

enum class TurnStage { kWaiting, kPrefilling, kDecoding };

struct ScheduledTurn {
  uint64_t turn = 0;  // ids grow with arrival
  TurnStage stage = TurnStage::kWaiting;
};

struct BatchPlan {
  // One step each, those of one group together; groups and turns in this order.
  std::vector<std::vector<uint64_t>> decode;
  std::optional<uint64_t> prefill;  // then one unit of this one; a waiting turn is started first
};

// `turns` in any order; at most `max_running` turns are past kWaiting at once (>= 1), and at most
// `max_decode_rows` in one group (>= 1).
BatchPlan PlanBatch(std::span<const ScheduledTurn> turns, int max_running, int max_decode_rows);

}  // namespace tailor
