// From options to a running engine: model, policy, backend, store, weights; one step after the
// other, each shown in the WorkerState, each failure with its exit code.
#pragma once

#include <memory>

#include "absl/status/status.h"
#include "services/exit_code.h"
#include "services/worker/worker_options.h"
#include "services/worker/worker_state.h"

namespace tailor {

struct LoadOutcome {
  absl::Status status{};
  ExitCode exit_code = kExitOk;      // of a failure
  std::shared_ptr<Engine> engine{};  // of a success
  KvClient* remote_store =
      nullptr;  // the engine's, for StoreWatch; null when it is in this process
};

LoadOutcome LoadWorker(const WorkerOptions& options, WorkerState& state);

}  // namespace tailor
