// Asks each process how it is: a real call of its own API, with a short deadline.
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "services/cli/process/run_dir.h"
#include "services/cli/up_run.h"
#include "tailor/v1/decoder.pb.h"

namespace tailor {

struct Health {
  bool healthy = false;
  std::string text;  // "serving", "loading weights 40%", "no answer (...)"
};

struct ServiceSnapshot {
  Health kvstore, worker, gateway;
  std::optional<v1::GetModelInfoResponse> model;
  std::optional<v1::GetWorkerStatsResponse> stats;
  std::optional<v1::GetStatsResponse> store;
};

ServiceSnapshot ProbeServices(const RunState& state, const std::string& api_key);

// For `tailor up`: how the worker's load goes; empty when it does not answer yet.
std::optional<LoadProgress> ProbeLoad(const std::string& worker_address);

}  // namespace tailor
