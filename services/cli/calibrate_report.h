// What `tailor calibrate` hands over: the same figures as JSON, Markdown and one HTML page.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "worker/quality/calibration.h"

namespace tailor {

nlohmann::json CalibrationJson(const CalibrationResult& result);
std::string CalibrationMarkdown(const CalibrationResult& result);
std::string CalibrationHtml(const CalibrationResult& result);

}  // namespace tailor
