// One output's blocks of 256 in the K formats: from the file's order into the kernels'
// (packed_weight.h), and single values back.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/model_file/dtype.h"

namespace tailor {

// Copies one file block of one output into lane `lane` of a packed block.
void PackKBlock(DType dtype, const std::byte* file, int lane, std::byte* packed);

// Value `i` of 256 of one lane, dequantized.
float PackedKValue(DType dtype, const std::byte* packed, int lane, int64_t i);

}  // namespace tailor
