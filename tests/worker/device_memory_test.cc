// Whether Llama-3.1-8B in bf16 at 128k tokens fits into 20 GB of a device: the sum of what the code
// says it takes, by the formulas that it takes it by.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>

#include "common/model_file/model_file.h"
#include "worker/admission.h"
#include "worker/model/prefill.h"
#include "worker/model/step_buffers.h"
#include "worker/ops/cuda/device_pool.h"
#include "worker/ops/cuda/own_memory.h"
#include "worker/ops/cuda/weight_layout.h"

namespace tailor {
namespace {

constexpr int64_t kContext = 131072;
constexpr int64_t kGoal = 20'000'000'000;    // milestone M3
constexpr int kMultiprocessors = 132;        // of an H100
constexpr int64_t kRows = 512, kBatch = 16;  // EngineOptions

LlamaHyperparameters Llama8B() {
  LlamaHyperparameters m;
  m.layers = 32;
  m.hidden = 4096;
  m.q_heads = 32;
  m.kv_heads = 8;
  m.head_dim = 128;
  m.ffn_hidden = 14336;
  m.vocab = 128256;
  m.context_tokens = kContext;
  return m;
}

int64_t WeightBytes(const LlamaHyperparameters& m) {
  const auto take = [](DType dtype, int64_t rows, int64_t cols) {
    const int64_t bytes = cuda::WeightLayout::Of(dtype, rows, cols).Bytes();
    return (bytes + cuda::DevicePool::kAlignment - 1) / cuda::DevicePool::kAlignment *
           cuda::DevicePool::kAlignment;
  };
  const int64_t kv = int64_t{m.kv_heads} * m.head_dim, q = int64_t{m.q_heads} * m.head_dim;
  const int64_t layer = 2 * take(DType::kF32, 1, m.hidden) + take(DType::kBF16, q, m.hidden) +
                        2 * take(DType::kBF16, kv, m.hidden) + take(DType::kBF16, m.hidden, q) +
                        2 * take(DType::kBF16, m.ffn_hidden, m.hidden) +
                        take(DType::kBF16, m.hidden, m.ffn_hidden);
  return m.layers * layer + take(DType::kF32, 1, m.hidden) +
         2 * take(DType::kBF16, m.vocab, m.hidden);
}

struct Sum {
  LlamaHyperparameters model = Llama8B();
  LayerPolicy policy = LayerPolicy::Default("Llama-3.1-8B", {}, model);
  PoolShape shape = {.layers = model.layers,
                     .kv_heads = model.kv_heads,
                     .head_dim = model.head_dim,
                     .sparse_layers = policy.SparseLayers(model.layers)};
  AdmissionLimits limits = {.context_tokens = kContext,
                            .vocab = model.vocab,
                            .hidden = model.hidden,
                            .host_memory_is_far = true};

  Sum() { policy.selector = Selector::kSketch; }
  // Whatever turns run.
  int64_t Fixed() const {
    return WeightBytes(model) + RopeTable::Bytes(model.head_dim, kContext) +
           StepBuffers::Bytes(model, kRows, kBatch) + cuda::kStartBytes +
           cuda::LaterBytes(model, kRows, kContext, kMultiprocessors);
  }
  TurnQuote Turn(int64_t prompt, int32_t new_tokens) const {
    TurnRequest request;
    request.history.resize(prompt);
    request.max_new_tokens = new_tokens;
    return QuoteTurn(request, limits, policy, shape);
  }
};

TEST(DeviceMemoryTest, Llama8BInBf16At128kFitsInto20GB) {
  const Sum sum;
  const TurnQuote turn = sum.Turn(kContext - 256, 256);
  const int64_t all = sum.Fixed() + turn.kv_bytes + turn.prefill_bytes;
  std::printf(
      "weights %.3f GB, rotations %.3f, step buffers %.3f, the backend itself %.3f and %.3f, "
      "KV %.3f, prefill beside it %.3f, in all %.3f of %.3f\n",
      1e-9 * WeightBytes(sum.model), 1e-9 * RopeTable::Bytes(128, kContext),
      1e-9 * StepBuffers::Bytes(sum.model, kRows, kBatch), 1e-9 * cuda::kStartBytes,
      1e-9 * cuda::LaterBytes(sum.model, kRows, kContext, kMultiprocessors), 1e-9 * turn.kv_bytes,
      1e-9 * turn.prefill_bytes, 1e-9 * all, 1e-9 * kGoal);
  EXPECT_LE(all, kGoal);
  // The quote covers a first turn, whose sketch comes when its residual stream has gone.
  const LayerBytes kv =
      SequenceCache::Quote(sum.policy, sum.shape, CacheMode::kHybrid, kContext - 1);
  const int64_t first = sum.Fixed() + kv.total() - kv.sketch +
                        Prefill::Bytes(sum.shape, sum.model.hidden, 0, kContext - 256, true);
  std::printf("a first turn's prefill: %.3f GB\n", 1e-9 * static_cast<double>(first));
  EXPECT_LE(first, all);
}

// Rows of all layers, as `full` keeps them.
TEST(DeviceMemoryTest, TheSameWithFullPrecisionKvDoesNotFit) {
  const Sum sum;
  EXPECT_GT(
      sum.Fixed() + SequenceCache::Quote(sum.policy, sum.shape, CacheMode::kFull, kContext).total(),
      kGoal);
}

}  // namespace
}  // namespace tailor
