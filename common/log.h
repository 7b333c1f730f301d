// Logging: one line an event, to stderr. Never prompt text, never tokens of a user.
#pragma once

#include <string>

#include "spdlog/spdlog.h"

namespace tailor {

// Sets the process's log name (shown in every line) and level: trace, debug, info, warn, error.
// TAILOR_LOG_LEVEL overrides `level`. Call once in main.
void SetUpLogging(const std::string& process_name, const std::string& level = "info");

}  // namespace tailor
