// The controls that every selection is measured against (ALGORITHM §6): the true top-k, a random
// choice, and no fetched rows at all. Scalar, for measuring only.
#pragma once

#include <cstdint>
#include <memory>

#include "worker/cache/fetcher.h"

namespace tailor {

enum class Control { kOracle, kRandom, kWindowOnly };

// kOracle: per KV head the candidates of largest attention mass summed over the group's query heads,
// from exact keys. kRandom: seeded by `seed` and the number of calls so far.
std::unique_ptr<RowFetcher> MakeControlFetcher(Control control, const PoolShape& shape,
                                               const SelectParams& params, uint64_t seed);

}  // namespace tailor
