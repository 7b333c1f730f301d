// CalibrationEvidence as the policy file's `evidence` object.
#pragma once

#include <nlohmann/json.hpp>

#include "absl/status/statusor.h"
#include "worker/policy/calibration_evidence.h"

namespace tailor {

nlohmann::json EvidenceToJson(const CalibrationEvidence& evidence);
// Untrusted. Errors: InvalidArgument naming field, value and limit; nothing unknown is let through.
absl::StatusOr<CalibrationEvidence> EvidenceFromJson(const nlohmann::json& object);

}  // namespace tailor
