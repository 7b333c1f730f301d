// What the commands that measure a model share (`tailor eval`, `tailor calibrate`): how they fail,
// how Ctrl-C ends them, and where their reports go.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/functional/function_ref.h"
#include "services/cli/interrupts.h"
#include "services/exit_code.h"
#include "worker/quality/measured_model.h"

namespace tailor {

struct MeasuringCommand {
  std::string name;  // "eval"
  std::string out;   // its --out
  std::string less;  // what to ask for when memory does not suffice
};

// The exit code and next step of a status that is not about the model.
int FailMeasuring(const MeasuringCommand& command, const absl::Status& status);
// The model, or a policy for it, cannot be used.
int FailModel(const MeasuringCommand& command, const absl::Status& status);
// Of a run whose plan was found good: what is left to be wrong is in the weights.
bool IsModelFault(const absl::Status& status);

// Runs `measure` with a progress line on the terminal. Ctrl-C ends it between two steps with
// Cancelled; what is finished is on disk by then.
absl::Status RunInterruptibly(Interrupts& interrupts, const std::string& out,
                              absl::FunctionRef<absl::Status(const ProgressFn&)> measure);

struct Reports {
  nlohmann::json json;
  std::string markdown, html;
};
// out/report.json, report.md, report.html.
absl::Status WriteReports(const Reports& reports, const std::filesystem::path& out);

}  // namespace tailor
