// When a child that ended is started again. A function of what is known, so that it can be tested
// without processes.
#pragma once

#include <cstdint>

#include "services/cli/process/child_process.h"
#include "services/exit_code.h"

namespace tailor {

struct RestartPolicy {
  int64_t first_backoff_ms = 250;  // doubles with every failure in a row: shorter recovers sooner,
  int64_t longest_backoff_ms = 8000;  // longer spares a machine that is short of something
  int failures_in_a_row = 5;          // after so many, the child is given up and everything stops
  int64_t healthy_after_ms = 30000;   // ready for so long: its earlier failures are forgotten
  int64_t start_timeout_ms = 600000;  // from start to "ready" (a large model loads for minutes)
};

struct RestartDecision {
  enum class Action { kRestart, kGiveUp } action = Action::kRestart;
  int64_t backoff_ms = 0;
  int failures_in_a_row = 0;  // to be remembered
};

// `ready_ms`: how long it had been ready; 0 if it never was. `failures_in_a_row`: before this end.
// Usage, model, memory and port errors will not go away by trying again: those give up at once. The
// loss of the store counts as no failure of the worker's own.
RestartDecision DecideRestart(const RestartPolicy& policy, const ChildExit& exit, int64_t ready_ms,
                              int failures_in_a_row);

}  // namespace tailor
