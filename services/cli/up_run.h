// Runs `tailor up`: checks, starts, shows progress, supervises, stops.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "services/cli/up_plan.h"

namespace tailor {

struct LoadProgress {
  std::string activity;
  int64_t done = 0, total = 0;
};
// Asks the worker at `address` how its load goes; empty when it does not answer yet.
using LoadProgressFn = std::function<std::optional<LoadProgress>(const std::string& address)>;

enum class UpMode { kForeground, kDetached };

// Returns the exit code. With kDetached it must be called before any thread exists.
int RunUp(const UpOptions& options, UpMode mode, const LoadProgressFn& load_progress);

}  // namespace tailor
