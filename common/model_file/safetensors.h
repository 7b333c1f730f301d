// The safetensors container: a JSON directory, then the tensors' bytes without gaps.
// Source: github.com/huggingface/safetensors, README "Format".
#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "common/model_file/model_file.h"

namespace tailor {

// The tensors by the file's own names; views point into `file`. As the reference reader does, it
// refuses gaps, overlaps and bytes past the last tensor. A 1-D tensor becomes one row. Errors:
// InvalidArgument (broken bytes, duplicate names, misalignment), Unimplemented (a dtype other than
// F32, F16, BF16; more than two dimensions); each names tensor, value and limit.
absl::StatusOr<std::map<std::string, TensorView, std::less<>>> ParseSafetensors(
    std::span<const std::byte> file);

}  // namespace tailor
