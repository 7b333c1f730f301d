#include "worker/sampling/sampling_params.h"

#include "common/status.h"

namespace tailor {
namespace {

// Also refuses NaN, which compares false with everything.
absl::Status CheckRange(const char* field, float value, float low, float high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " is ", value, ", limit ", low, "..", high));
}

}  // namespace

absl::Status SamplingParams::Validate() const {
  TS_RETURN_IF_ERROR(CheckRange("temperature", temperature, 0.0f, 100.0f));
  TS_RETURN_IF_ERROR(CheckRange("top_p", top_p, 1e-6f, 1.0f));
  TS_RETURN_IF_ERROR(CheckRange("min_p", min_p, 0.0f, 0.999999f));
  TS_RETURN_IF_ERROR(CheckRange("repetition_penalty", repetition_penalty, 1e-3f, 10.0f));
  TS_RETURN_IF_ERROR(CheckRange("presence_penalty", presence_penalty, -2.0f, 2.0f));
  TS_RETURN_IF_ERROR(CheckRange("frequency_penalty", frequency_penalty, -2.0f, 2.0f));
  if (top_k < 0) return absl::InvalidArgumentError(absl::StrCat("top_k is ", top_k, ", limit 0.."));
  return absl::OkStatus();
}

}  // namespace tailor
