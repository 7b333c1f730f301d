// The targets of the performance anchors that one GPU run can decide, against its results.
#pragma once

#include <nlohmann/json.hpp>

namespace tailor::bench {

// One line a target: id, what, target, measured (absent when it was not), verdict: "met", "missed"
// or "not measured". `results` as gpu_bench prints them, of Llama-3.1-8B's geometry: other contexts
// than 128k and 2k decide nothing.
nlohmann::json TargetLines(const nlohmann::json& results);

}  // namespace tailor::bench
