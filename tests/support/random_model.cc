#include "tests/support/random_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>

#include "common/bfloat16.h"
#include "common/status.h"

namespace tailor {
namespace {

// No multiple of any row, so that no two rows of a matrix are equal.
constexpr int64_t kRepeatValues = (int64_t{1} << 22) + 2 * 4099;

int64_t KvCols(const LlamaHyperparameters& m) { return int64_t{m.kv_heads} * m.head_dim; }
int64_t QCols(const LlamaHyperparameters& m) { return int64_t{m.q_heads} * m.head_dim; }

// Bytes that matrices are cut from, each at a place of its own.
class RandomBlock {
 public:
  RandomBlock(const LlamaHyperparameters& m, uint64_t seed) {
    const int64_t largest = int64_t{m.hidden} * std::max(m.vocab, m.ffn_hidden);
    values_.resize(largest + kRepeatValues);
    std::mt19937_64 random(seed);
    std::normal_distribution<float> normal(0, 1 / std::sqrt(static_cast<float>(m.hidden)));
    const int64_t fresh = std::min<int64_t>(kRepeatValues, static_cast<int64_t>(values_.size()));
    for (int64_t i = 0; i < fresh; ++i) values_[i] = ToBFloat16(normal(random));
    for (int64_t done = fresh; done < static_cast<int64_t>(values_.size());) {
      const auto rest = static_cast<int64_t>(values_.size()) - done;
      const int64_t count = std::min(fresh, rest);
      std::copy_n(values_.begin(), count, values_.begin() + done);
      done += count;
    }
  }
  TensorView Cut(int64_t rows, int64_t cols) {
    next_ = (next_ + 2 * 7919) % kRepeatValues;
    return {.name = "random",
            .dtype = DType::kBF16,
            .rows = rows,
            .cols = cols,
            .bytes = std::as_bytes(std::span(values_).subspan(next_, rows * cols))};
  }

 private:
  std::vector<BFloat16> values_;
  int64_t next_ = 0;
};

absl::StatusOr<LlamaLayer> MakeLayer(const LlamaHyperparameters& m, Backend* ops,
                                     const TensorView& gains, RandomBlock& block) {
  LlamaLayer w;
  TS_ASSIGN_OR_RETURN(w.attn_norm, ops->LoadWeight(gains));
  TS_ASSIGN_OR_RETURN(w.wq, ops->LoadWeight(block.Cut(QCols(m), m.hidden)));
  TS_ASSIGN_OR_RETURN(w.wk, ops->LoadWeight(block.Cut(KvCols(m), m.hidden)));
  TS_ASSIGN_OR_RETURN(w.wv, ops->LoadWeight(block.Cut(KvCols(m), m.hidden)));
  TS_ASSIGN_OR_RETURN(w.wo, ops->LoadWeight(block.Cut(m.hidden, QCols(m))));
  TS_ASSIGN_OR_RETURN(w.ffn_norm, ops->LoadWeight(gains));
  TS_ASSIGN_OR_RETURN(w.gate, ops->LoadWeight(block.Cut(m.ffn_hidden, m.hidden)));
  TS_ASSIGN_OR_RETURN(w.up, ops->LoadWeight(block.Cut(m.ffn_hidden, m.hidden)));
  TS_ASSIGN_OR_RETURN(w.down, ops->LoadWeight(block.Cut(m.hidden, m.ffn_hidden)));
  return w;
}

absl::StatusOr<LlamaModel> MakeWeights(const RandomModelOptions& options, Backend* ops) {
  const LlamaHyperparameters& m = options.shape;
  TS_RETURN_IF_ERROR(ops->CheckModel(m));
  LlamaModel model{.shape = m, .weights = {}, .rope = {}, .ops = ops};
  RandomBlock block(m, options.seed);
  const std::vector<float> ones(m.hidden, 1.0f);
  const TensorView gains = {.name = "gains",
                            .dtype = DType::kF32,
                            .rows = 1,
                            .cols = m.hidden,
                            .bytes = std::as_bytes(std::span(ones))};
  LlamaWeights& w = model.weights;
  TS_ASSIGN_OR_RETURN(w.embedding, ops->LoadWeight(block.Cut(m.vocab, m.hidden)));
  for (int32_t layer = 0; layer < m.layers; ++layer) {
    TS_ASSIGN_OR_RETURN(LlamaLayer made, MakeLayer(m, ops, gains, block));
    for (const Weight* weight : {&made.attn_norm, &made.wq, &made.wk, &made.wv, &made.wo,
                                 &made.ffn_norm, &made.gate, &made.up, &made.down}) {
      w.bytes += weight->storage->bytes();
    }
    w.layers.push_back(std::move(made));
  }
  TS_ASSIGN_OR_RETURN(w.final_norm, ops->LoadWeight(gains));
  TS_ASSIGN_OR_RETURN(w.lm_head, ops->LoadWeight(block.Cut(m.vocab, m.hidden)));
  w.bytes +=
      w.embedding.storage->bytes() + w.final_norm.storage->bytes() + w.lm_head.storage->bytes();
  TS_ASSIGN_OR_RETURN(model.rope, ops->MakeRopeTable(m, options.context_tokens));
  return model;
}

// The 16-bit scale (and minimum) of a quantized block; codes may be any bits.
void SetScales(DType dtype, std::byte* block) {
  constexpr uint16_t kHalf8 = 0x2000;  // 2^-7 in fp16
  std::memcpy(block, &kHalf8, sizeof(kHalf8));
  if (dtype == DType::kQ4_1) std::memcpy(block + 2, &kHalf8, sizeof(kHalf8));
}

}  // namespace

LlamaHyperparameters Llama31Shape(int32_t layers, int32_t vocab) {
  return {.layers = layers,
          .hidden = 4096,
          .q_heads = 32,
          .kv_heads = 8,
          .head_dim = 128,
          .ffn_hidden = 14336,
          .vocab = vocab,
          .context_tokens = 131072,
          .rope_theta = 500000,
          .rms_eps = 1e-5f,
          .rope_layout = RopeLayout::kInterleaved,
          .rope_scaling = {.kind = RopeScaling::Kind::kLlama3, .factor = 8},
          .tied_embedding = false,
          .qkv_bias = false};
}

Fingerprint RandomModelFingerprint(const RandomModelOptions& options) {
  const LlamaHyperparameters& m = options.shape;
  Fingerprinter f;
  f.AddString("random model").AddInt(static_cast<int64_t>(options.seed));
  for (const int32_t value :
       {m.layers, m.hidden, m.q_heads, m.kv_heads, m.head_dim, m.ffn_hidden, m.vocab}) {
    f.AddInt(value);
  }
  return f.Finish();
}

absl::StatusOr<std::unique_ptr<MeasuredModel>> MakeRandomModel(const RandomModelOptions& options,
                                                               const LayerPolicy& policy,
                                                               std::unique_ptr<Backend> backend,
                                                               std::unique_ptr<KvClient> store) {
  const LlamaHyperparameters& m = options.shape;
  TS_RETURN_IF_ERROR(m.Validate());
  TS_RETURN_IF_ERROR(policy.Validate(m, RandomModelFingerprint(options)));
  auto made = std::make_unique<MeasuredModel>();
  made->policy = policy;
  made->backend = std::move(backend);
  made->store = std::move(store);
  TS_ASSIGN_OR_RETURN(made->model, MakeWeights(options, made->backend.get()));
  TS_ASSIGN_OR_RETURN(made->buffers, StepBuffers::Make(made->model, options.prefill_chunk_tokens,
                                                       options.decode_rows));
  const PoolSpec spec = {.model = policy.weights,
                         .policy = policy.fingerprint(),
                         .shape = {.layers = m.layers,
                                   .kv_heads = m.kv_heads,
                                   .head_dim = m.head_dim,
                                   .sparse_layers = policy.SparseLayers(m.layers)},
                         .max_bytes = 0};
  TS_ASSIGN_OR_RETURN(made->pool, made->store->OpenPool(spec));
  TS_RETURN_IF_ERROR(made->backend->MapHostMemory(made->pool.bytes()));
  return made;
}

std::vector<std::byte> RandomWeightBytes(DType dtype, int64_t rows, int64_t cols, uint64_t seed) {
  std::vector<std::byte> bytes(static_cast<size_t>(*TensorBytes(dtype, rows, cols)));
  const int64_t block = BlockBytes(dtype), size = static_cast<int64_t>(bytes.size());
  const int64_t fresh = std::min(size, (int64_t{1} << 20) / block * block);
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, 1);
  for (int64_t at = 0; at < fresh; at += block) {
    std::byte* to = bytes.data() + at;
    if (dtype == DType::kF32 || dtype == DType::kBF16) {
      const auto bits = std::bit_cast<uint32_t>(normal(random));
      std::memcpy(to, reinterpret_cast<const std::byte*>(&bits) + (4 - block), block);
    } else if (dtype == DType::kF16) {
      const auto half =
          static_cast<uint16_t>(0x3000 | (random() & 0x8fff));  // 2^-3 to 4, either sign
      std::memcpy(to, &half, sizeof(half));
    } else {
      for (int64_t i = 0; i < block; ++i) to[i] = static_cast<std::byte>(random());
      SetScales(dtype, to);
    }
  }
  for (int64_t at = fresh; at < size; at += fresh) {
    std::memcpy(bytes.data() + at, bytes.data(), std::min(fresh, size - at));
  }
  return bytes;
}

}  // namespace tailor
