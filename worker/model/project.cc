#include "worker/model/project.h"

namespace tailor {
namespace {

void FinishQ(const LlamaModel& model, const LlamaLayer& layer, std::span<const int32_t> positions,
             MatrixView<float> q) {
  if (model.shape.qkv_bias) model.ops->AddBias(layer.bq, q);
  model.ops->Rope(positions, model.rope, q);
}

void FinishKv(const LlamaModel& model, const LlamaLayer& layer, std::span<const int32_t> positions,
              MatrixView<float> k, MatrixView<float> v) {
  if (model.shape.qkv_bias) {
    model.ops->AddBias(layer.bk, k);
    model.ops->AddBias(layer.bv, v);
  }
  model.ops->Rope(positions, model.rope, k);
}

}  // namespace

void ProjectQkv(const LlamaModel& model, const LlamaLayer& layer,
                std::span<const int32_t> positions, MatrixView<const float> x, MatrixView<float> q,
                MatrixView<float> k, MatrixView<float> v) {
  model.ops->ProjectQkv(x, layer.wq, layer.wk, layer.wv, q, k, v);
  FinishQ(model, layer, positions, q);
  FinishKv(model, layer, positions, k, v);
}

void ProjectQkvToRows(const LlamaModel& model, const LlamaLayer& layer,
                      std::span<const int32_t> positions, MatrixView<const float> x,
                      MatrixView<float> q, MatrixView<float> k, MatrixView<float> v,
                      std::span<BFloat16* const> rows, std::span<BFloat16* const> more_rows) {
  model.ops->ProjectQkv(x, layer.wq, layer.wk, layer.wv, q, k, v);
  if (model.shape.qkv_bias) {
    model.ops->AddBias(layer.bq, q);
    model.ops->AddBias(layer.bk, k);
    model.ops->AddBias(layer.bv, v);
  }
  model.ops->RopeAndWriteRows(positions, model.rope, q, k, v, rows, more_rows);
}

void ProjectQ(const LlamaModel& model, const LlamaLayer& layer, std::span<const int32_t> positions,
              MatrixView<const float> x, MatrixView<float> q) {
  model.ops->MatMul(x, layer.wq, q);
  FinishQ(model, layer, positions, q);
}

void ProjectKv(const LlamaModel& model, const LlamaLayer& layer, std::span<const int32_t> positions,
               MatrixView<const float> x, MatrixView<float> k, MatrixView<float> v) {
  model.ops->MatMul(x, layer.wk, k);
  model.ops->MatMul(x, layer.wv, v);
  FinishKv(model, layer, positions, k, v);
}

}  // namespace tailor
