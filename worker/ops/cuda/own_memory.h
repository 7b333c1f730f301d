// What the CUDA backend takes of its device memory for itself, beside what Allocate gives: known
// before a model is loaded, so that admission can leave it alone.
#pragma once

#include <cstdint>

#include "common/model_file/model_file.h"

namespace tailor::cuda {

inline constexpr int64_t kRingBytes = int64_t{8} << 20;  // arguments; a second ring beside the ops
inline constexpr int64_t kStageBytes = int64_t{16} << 20;         // rows of the host's memory
inline constexpr int64_t kFirstScratchBytes = int64_t{32} << 20;  // a small budget fails at start
inline constexpr int64_t kFirstStepBytes = int64_t{1} << 20;      // tables of a recorded step
inline constexpr int64_t kMostStepBytes = int64_t{64} << 20;
inline constexpr int64_t kManyRowsBytes = int64_t{80} << 20;  // products of many rows
inline constexpr int kScratchLanes = 4;

// Taken at start, at most.
inline constexpr int64_t kStartBytes =
    2 * kRingBytes + kStageBytes + kFirstScratchBytes + kFirstStepBytes + kManyRowsBytes;

// What calls of up to `rows` rows over `tokens` tokens may come to take on top, at most: their
// scratch, the tables of steps while they grow, and 32 MiB for what nobody quotes (answers of
// fetchers, self-checks, rounding).
int64_t LaterBytes(const LlamaHyperparameters& model, int64_t rows, int64_t tokens,
                   int multiprocessors);

}  // namespace tailor::cuda
