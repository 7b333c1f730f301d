// Prefill and decode of every family against a forward pass of the references alone.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "tests/support/tiny_model.h"
#include "tests/worker/ops/op_test.h"
#include "worker/model/project.h"
#include "worker/ops/reference.h"
#include "worker/quality/measured_model.h"

namespace tailor {
namespace {

// Layer after layer over the whole sequence, as the family's paper has it; K and V in bf16, as
// every cache keeps them.
class ReferenceModel {
 public:
  explicit ReferenceModel(const std::filesystem::path& path) : file_(*ModelFile::Open(path)) {}

  // [tokens][vocab]
  HostMatrix Logits(const std::vector<TokenId>& ids) const {
    HostMatrix x(static_cast<int64_t>(ids.size()), m_.hidden);
    HostMatrix embedding = Values("token_embd.weight");
    EmbedRef(ids, embedding.view(), x.view());
    for (int32_t layer = 0; layer < m_.layers; ++layer) {
      const std::string p = "blk." + std::to_string(layer) + ".";
      Attend(p, x);
      FeedForward(p, x);
    }
    return Product(Normed(x, "output_norm.weight"), "token_embd.weight");
  }

 private:
  HostMatrix Values(const std::string& name) const {
    const TensorView view = *file_->Tensor(name);
    HostMatrix values(view.rows, view.cols);
    values.values = DequantizeRef(view);
    return values;
  }
  HostMatrix Product(HostMatrix x, const std::string& name) const {
    HostMatrix w = Values(name), out(x.rows, w.rows);
    MatMulRef(x.view(), w.view(), out.view());
    return out;
  }
  HostMatrix Normed(HostMatrix x, const std::string& name) const {
    HostMatrix out(x.rows, x.cols);
    RmsNormRef(x.view(), Values(name).values, m_.rms_eps, out.view());
    return out;
  }
  HostMatrix Projected(const HostMatrix& x, const std::string& name) const {
    HostMatrix out = Product(x, name + ".weight");
    if (m_.qkv_bias) AddBiasRef(Values(name + ".bias").values, out.view());
    return out;
  }

  void Attend(const std::string& p, HostMatrix& x) const {
    const HostMatrix in = Normed(x, p + "attn_norm.weight");
    HostMatrix q = Projected(in, p + "attn_q"), k = Projected(in, p + "attn_k"),
               v = Projected(in, p + "attn_v");
    std::vector<int32_t> positions(x.rows);
    for (int64_t i = 0; i < x.rows; ++i) positions[i] = static_cast<int32_t>(i);
    RopeRef(positions, m_, q.view());
    RopeRef(positions, m_, k.view());
    for (HostMatrix* rows : {&k, &v}) {
      for (float& value : rows->values) value = ToFloat(ToBFloat16(value));
    }
    HostMatrix out(x.rows, q.cols);
    for (int64_t t = 0; t < x.rows; ++t) {
      for (int32_t head = 0; head < m_.q_heads; ++head) AttendToken(q, k, v, t, head, out);
    }
    HostMatrix wo = Values(p + "attn_output.weight");
    MatMulAddRef(out.view(), wo.view(), x.view());
  }

  // out = softmax(q k^T / sqrt(d)) v over tokens 0 to t, in double.
  void AttendToken(const HostMatrix& q, const HostMatrix& k, const HostMatrix& v, int64_t t,
                   int32_t head, HostMatrix& out) const {
    const int32_t d = m_.head_dim, kv = head / (m_.q_heads / m_.kv_heads);
    std::vector<double> sums(d, 0.0);
    double total = 0;
    for (int64_t s = 0; s <= t; ++s) {
      double score = 0;
      for (int32_t c = 0; c < d; ++c)
        score += double{q.row(t)[head * d + c]} * k.row(s)[kv * d + c];
      const double weight = std::exp(score / std::sqrt(d));
      total += weight;
      for (int32_t c = 0; c < d; ++c) sums[c] += weight * v.row(s)[kv * d + c];
    }
    for (int32_t c = 0; c < d; ++c) {
      out.view()(t, head * d + c) = static_cast<float>(sums[c] / total);
    }
  }

  void FeedForward(const std::string& p, HostMatrix& x) const {
    HostMatrix in = Normed(x, p + "ffn_norm.weight"), gate = Values(p + "ffn_gate.weight"),
               up = Values(p + "ffn_up.weight"), down = Values(p + "ffn_down.weight");
    HostMatrix inner(x.rows, gate.rows);
    SwiGluRef(in.view(), gate.view(), up.view(), inner.view());
    MatMulAddRef(inner.view(), down.view(), x.view());
  }

  std::unique_ptr<ModelFile> file_;
  const LlamaHyperparameters& m_ = file_->hyperparameters();
};

// ||a - b|| / ||b||. Both sides round K and V to bf16, and a value on the edge may fall to either
// side, which random weights amplify; a forgotten bias or another rotation is off by more than 0.1.
double Distance(std::span<const float> a, std::span<const float> b) {
  double off = 0, norm = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    off += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    norm += double{b[i]} * b[i];
  }
  return std::sqrt(off / norm);
}
constexpr double kAllowed = 4e-3;

const MeasuredModelOptions kOptions = {
    .threads = 1, .context_tokens = 1024, .arena_bytes = int64_t{64} << 20};

class ForwardTest : public testing::TestWithParam<ModelFamily> {};
INSTANTIATE_TEST_SUITE_P(Family, ForwardTest, testing::ValuesIn(kModelFamilies),
                         [](const auto& info) { return std::string(info.param.gguf); });

TEST_P(ForwardTest, PrefillAndDecodeHaveTheLogitsOfTheReferences) {
  constexpr int64_t kPrompt = 21, kTokens = 25;
  const ScratchDir scratch;
  const auto path = scratch / "tiny.gguf";
  WriteTinyModel(path, {.family = &GetParam(), .layers = 2});
  std::vector<TokenId> ids(kTokens);
  std::mt19937_64 random(1);
  for (TokenId& id : ids) id = static_cast<TokenId>(random() % kTinyVocab);
  const HostMatrix want = ReferenceModel(path).Logits(ids);

  auto model = MeasuredModel::Load(path.string(), "", kOptions);
  ASSERT_TRUE(model.ok()) << model.status();
  for (const CacheMode mode : {CacheMode::kFull, CacheMode::kHybrid}) {
    auto cache = (*model)->Open(mode == CacheMode::kFull ? "full" : "hybrid", mode, kTokens);
    ASSERT_TRUE(cache.ok()) << cache.status();
    ASSERT_TRUE((*model)->RunPrefill({ids.begin(), ids.begin() + kPrompt}, **cache).ok());
    EXPECT_LE(Distance((*model)->logits(), want.row(kPrompt - 1)), kAllowed) << "after the prompt";
    for (int64_t t = kPrompt; t < kTokens; ++t) {
      ASSERT_TRUE((*model)->Step(ids[t], (*model)->policy, **cache).ok());
      EXPECT_LE(Distance((*model)->logits(), want.row(t)), kAllowed) << "token " << t;
    }
  }
}

// The predicted query and the last layer's rows take their own way.
TEST_P(ForwardTest, ProjectingQOrKvAloneGivesTheSameBits) {
  const ScratchDir scratch;
  WriteTinyModel(scratch / "tiny.gguf", {.family = &GetParam(), .layers = 1});
  auto loaded = MeasuredModel::Load((scratch / "tiny.gguf").string(), "", kOptions);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const LlamaModel& model = (*loaded)->model;
  const LlamaLayer& layer = model.weights.layers[0];
  const std::vector<int32_t> positions = {5, 900, 17};
  const int64_t kv_cols = layer.wk.rows;
  const DeviceMatrix x(*model.ops, RandomMatrix(3, model.shape.hidden, 1));
  const auto room = [&](int64_t cols) { return DeviceMatrix(*model.ops, 3, cols); };
  const DeviceMatrix q = room(layer.wq.rows), k = room(kv_cols), v = room(kv_cols),
                     q_alone = room(layer.wq.rows), k_alone = room(kv_cols),
                     v_alone = room(kv_cols);
  ProjectQkv(model, layer, positions, x.view(), q.view(), k.view(), v.view());
  ProjectQ(model, layer, positions, x.view(), q_alone.view());
  ProjectKv(model, layer, positions, x.view(), k_alone.view(), v_alone.view());
  EXPECT_EQ(q.Download().values, q_alone.Download().values);
  EXPECT_EQ(k.Download().values, k_alone.Download().values);
  EXPECT_EQ(v.Download().values, v_alone.Download().values);
}

}  // namespace
}  // namespace tailor
