// One token of each of several sequences through the model over their caches: the weights are read
// once for all of them.
#pragma once

#include <span>

#include "worker/model/decode_row.h"
#include "worker/model/llama_weights.h"
#include "worker/model/step_buffers.h"

namespace tailor {

// Appends each row's token to its sequence and leaves the logits of the next one in b.logits, row
// by row. 1 to b.logits.rows rows, all of `policy`, with Ok in their status. What a row computes
// does not depend on the others (worker/ops/backend.h), and its failure does not touch them.
void DecodeStep(const LlamaModel& model, const LayerPolicy& policy, std::span<DecodeRow> rows,
                StepBuffers& b);

// The same for one sequence. Errors: DecodeRow's.
absl::Status DecodeStep(const LlamaModel& model, const LayerPolicy& policy, TokenId token,
                        SequenceCache& cache, StepBuffers& b);

}  // namespace tailor
