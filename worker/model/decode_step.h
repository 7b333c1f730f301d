// One token through the model over the hybrid cache.
#pragma once

#include "worker/cache/sequence_cache.h"
#include "worker/model/llama_weights.h"
#include "worker/model/step_buffers.h"

namespace tailor {

// Appends `token` to the sequence (its position is cache.tokens()) and leaves the logits of the
// next one in b.logits. Precondition: a row is reserved. Errors leave the sequence unusable: DataLoss,
// DeadlineExceeded, Unavailable from the store.
absl::Status DecodeStep(const LlamaModel& model, const LayerPolicy& policy, TokenId token,
                        SequenceCache& cache, StepBuffers& b);

}  // namespace tailor
