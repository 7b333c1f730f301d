// The check of one row: XXH3 over its 2 * head_dim bf16 values, low 32 bits. Guards against
// corruption, not against forgery.
#pragma once

#include <xxhash.h>

#include <cstdint>
#include <span>

#include "common/bfloat16.h"

namespace tailor {

inline uint32_t RowCheck(std::span<const BFloat16> row) {
  return static_cast<uint32_t>(XXH3_64bits(row.data(), row.size_bytes()));
}

}  // namespace tailor
