// A model of Llama's kind in any geometry whose weights are random and made on the spot: no file of
// 16 GB, and every byte of a backend's weights is its own (layers share nothing on the backend,
// only the host memory they were made from).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "common/model_file/dtype.h"
#include "worker/quality/measured_model.h"

namespace tailor {

// Llama-3.1-8B's geometry; fewer layers or a smaller vocabulary for tests.
LlamaHyperparameters Llama31Shape(int32_t layers = 32, int32_t vocab = 128256);

struct RandomModelOptions {
  LlamaHyperparameters shape;
  int64_t context_tokens = 8192;  // sizes the table of rotations
  int64_t prefill_chunk_tokens = 512;
  int32_t decode_rows = 1;  // sequences of one step at most
  uint64_t seed = 1;
};

// What policies for such a model are bound to.
Fingerprint RandomModelFingerprint(const RandomModelOptions& options);

// Products are BF16, normally distributed of variance 1 / hidden, norms' gains 1. `file` of the
// model is null. Errors: those of LayerPolicy::Validate, the backend and the store.
absl::StatusOr<std::unique_ptr<MeasuredModel>> MakeRandomModel(const RandomModelOptions& options,
                                                               const LayerPolicy& policy,
                                                               std::unique_ptr<Backend> backend,
                                                               std::unique_ptr<KvClient> store);

// [rows][cols] of F32, F16, BF16, Q8_0, Q4_0 or Q4_1 as a file keeps them: finite values of a few
// units, a block of which repeats.
std::vector<std::byte> RandomWeightBytes(DType dtype, int64_t rows, int64_t cols, uint64_t seed);

}  // namespace tailor
