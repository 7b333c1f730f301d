// Rows for each layer out of a common total, by what a row more is worth there: layers differ in
// how widely they attend. ALGORITHM §3.4 (layer_top_k).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace tailor {

// Mean mass recall of one layer at some numbers of rows, ascending; at least one.
using RecallCurve = std::vector<std::pair<int32_t, double>>;

// [curves]: every layer has its curve's first number at least and its last at most, the sum is
// `total_rows`, and no other choice has a larger sum of recalls along the curves' upper concave
// hulls (those are followed by steepest segments first; ties go to the lower layer). nullopt: the
// total is below or above what the curves allow.
std::optional<std::vector<int32_t>> AllocateRows(std::span<const RecallCurve> curves,
                                                 int64_t total_rows);

}  // namespace tailor
