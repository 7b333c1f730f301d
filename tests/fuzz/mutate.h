// Deterministic changes of an input: the same number gives the same bytes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tailor {

// Input `number` of those that start from `seeds` (not empty): the seeds themselves come first.
std::string NumberedInput(const std::vector<std::string>& seeds, uint64_t number);

}  // namespace tailor
