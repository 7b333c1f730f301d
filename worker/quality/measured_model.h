// A model with a store in this process, for measuring: sequences that are prefilled once and then
// decoded by several methods from the same rows.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/model_file/model_file.h"
#include "kvstore/client/kv_client.h"
#include "worker/cache/sequence_cache.h"
#include "worker/model/decode_step.h"
#include "worker/model/llama_weights.h"
#include "worker/model/prefill.h"
#include "worker/model/step_buffers.h"

namespace tailor {

// What a long measurement tells its caller between steps. Any answer but OK ends it with that
// status.
using ProgressFn =
    std::function<absl::Status(const std::string& label, int64_t done, int64_t total)>;

struct MeasuredModelOptions {
  int threads = 0;                         // 0: one per core
  bool cuda = false;                       // on device 0
  std::string cuda_module = {};            // empty: the one beside this program
  bool far_host_memory = false;            // of CpuBackendOptions
  int64_t context_tokens = 8192;           // the longest sequence: sizes the table of rotations
  int64_t arena_bytes = int64_t{1} << 30;  // see MeasuredModel::ArenaBytes
  int32_t decode_rows = 1;                 // sequences of one step at most, kMaxDecodeRows
};

struct MeasuredModel {
  // Errors: those of LayerPolicy::Validate, LoadLlama and the store.
  static absl::StatusOr<std::unique_ptr<MeasuredModel>> Create(std::unique_ptr<ModelFile> file,
                                                               const LayerPolicy& policy,
                                                               const MeasuredModelOptions& options);
  // The same from paths; an empty policy path is the default policy.
  static absl::StatusOr<std::unique_ptr<MeasuredModel>> Load(
      const std::filesystem::path& model_path, const std::filesystem::path& policy_path,
      const MeasuredModelOptions& options);
  // An arena that holds one sequence of `tokens` tokens, the last `decoded` of which each of
  // `forks` forks adds for itself.
  static absl::StatusOr<int64_t> ArenaBytes(const LlamaHyperparameters& shape,
                                            const LayerPolicy& policy, int64_t tokens,
                                            int64_t decoded, int64_t forks);

  // A new, empty sequence with rows for `tokens` tokens reserved. Shares no prefix.
  absl::StatusOr<std::unique_ptr<SequenceCache>> Open(const std::string& name, CacheMode mode,
                                                      int64_t tokens);
  // A sequence with the same rows; mode and layer table may be others.
  absl::StatusOr<std::unique_ptr<SequenceCache>> Fork(const SequenceCache& parent,
                                                      const std::string& name, CacheMode mode,
                                                      const LayerPolicy& layers, int64_t tokens);
  // `progress` may be empty; it gets token-layers.
  absl::Status RunPrefill(std::vector<TokenId> tokens, SequenceCache& cache,
                          const std::function<absl::Status(int64_t, int64_t)>& progress = nullptr);
  absl::Status Step(TokenId token, const LayerPolicy& layers, SequenceCache& cache) {
    return DecodeStep(model, layers, token, cache, buffers);
  }
  // One token of each row; row i's logits are in buffers.logits.
  void StepAll(const LayerPolicy& layers, std::span<DecodeRow> rows) {
    DecodeStep(model, layers, rows, buffers);
  }
  std::span<const float> logits() {
    return backend->ReadBack(buffers.logits.row(0), &host_logits);
  }

  std::unique_ptr<ModelFile> file;
  LayerPolicy policy;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<KvClient> store;
  PoolView pool;
  LlamaModel model;
  StepBuffers buffers;
  std::vector<float> host_logits;  // where the device's memory is not the host's
};

// The first of the largest: greedy decoding's choice.
TokenId ArgMax(std::span<const float> logits);

}  // namespace tailor
