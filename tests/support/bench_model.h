// What the quality and speed programs share: a model with a store in this process, sequences that
// are prefilled once and then decoded by several methods from the same rows.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/model_file/model_file.h"
#include "kvstore/client/local_kv_client.h"
#include "worker/cache/sequence_cache.h"
#include "worker/model/decode_step.h"
#include "worker/model/llama_weights.h"
#include "worker/model/prefill.h"
#include "worker/model/step_buffers.h"

namespace tailor {

struct BenchModelOptions {
  std::string model_path;
  std::string policy_path;  // empty: the default policy
  int threads = 0;
  int64_t context_tokens = 8192;
  int64_t arena_bytes = int64_t{1} << 30;
};

struct BenchModel {
  static absl::StatusOr<std::unique_ptr<BenchModel>> Load(const BenchModelOptions& options);

  // A new, empty sequence with rows for `tokens` tokens reserved. Shares no prefix.
  absl::StatusOr<std::unique_ptr<SequenceCache>> Open(const std::string& name, CacheMode mode,
                                                      int64_t tokens);
  // A sequence with the same rows, in another mode perhaps.
  absl::StatusOr<std::unique_ptr<SequenceCache>> Fork(const SequenceCache& parent,
                                                      const std::string& name, CacheMode mode,
                                                      int64_t tokens);
  absl::Status RunPrefill(std::vector<TokenId> tokens, SequenceCache& cache);
  absl::Status Step(TokenId token, SequenceCache& cache) {
    return DecodeStep(model, policy, token, cache, buffers);
  }
  std::span<const float> logits() const { return buffers.logits.row(0); }

  std::unique_ptr<ModelFile> file;
  LayerPolicy policy;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<KvClient> store;
  PoolView pool;
  LlamaModel model;
  StepBuffers buffers;
};

}  // namespace tailor
