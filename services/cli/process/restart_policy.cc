#include "services/cli/process/restart_policy.h"

#include <algorithm>

namespace tailor {
namespace {

bool IsPermanent(const ChildExit& exit) {
  return exit.signal == 0 && exit.code >= kExitUsage && exit.code <= kExitNoDevice;
}

}  // namespace

RestartDecision DecideRestart(const RestartPolicy& policy, const ChildExit& exit, int64_t ready_ms,
                              int failures_in_a_row) {
  if (IsPermanent(exit)) return {RestartDecision::Action::kGiveUp, 0, failures_in_a_row + 1};
  const int before = ready_ms >= policy.healthy_after_ms ? 0 : failures_in_a_row;
  if (exit.signal == 0 && exit.code == kExitLostStore && ready_ms > 0) {
    return {RestartDecision::Action::kRestart, policy.first_backoff_ms, before};
  }
  const int failures = before + 1;
  if (failures > policy.failures_in_a_row) return {RestartDecision::Action::kGiveUp, 0, failures};
  int64_t backoff_ms = policy.first_backoff_ms;
  for (int i = 1; i < failures && backoff_ms < policy.longest_backoff_ms; ++i) backoff_ms *= 2;
  return {RestartDecision::Action::kRestart, std::min(backoff_ms, policy.longest_backoff_ms),
          failures};
}

}  // namespace tailor
