// The k largest of n scores, exactly: ties go to the lower position; NaN counts as -infinity.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tailor {

// Appends the positions of the min(k, n) largest scores to `out`, ascending. The largest of every
// block of up to 16 gives a bound that at least k scores reach; only those are looked at closely.
// `block_max` and `survivors` are scratch.
void TopK(std::span<const float> scores, int32_t k, std::vector<float>& block_max,
          std::vector<int32_t>& survivors, std::vector<int32_t>* out);

}  // namespace tailor
