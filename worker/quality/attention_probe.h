// How much of a layer's exact attention a method keeps, against exact attention over all rows in
// the store with the method's own query. ALGORITHM §6.
#pragma once

#include <vector>

#include "worker/cache/sequence_cache.h"
#include "worker/ops/backend.h"

namespace tailor {

// Sums over decode steps of one layer. Recall is exp(lse_method - lse_exact), counted for each
// query head; a quantized layer attends to every token and has none (heads == 0), only an error.
struct LayerQuality {
  double recall_sum = 0, recall_worst = 1;
  double error_sum = 0;  // ||o - o_exact|| / ||o_exact||, once a step over all heads
  int64_t heads = 0, steps = 0;

  void Add(const LayerQuality& other);
  bool has_recall() const { return heads > 0; }
  double mean_recall() const { return heads > 0 ? recall_sum / static_cast<double>(heads) : 1; }
  double mean_error() const { return steps > 0 ? error_sum / static_cast<double>(steps) : 0; }
};

class AttentionProbe final : public AttendProbe {
 public:
  // CPU backends only: reads rows and outputs in place. `layers` is the table of the listened
  // cache.
  AttentionProbe(Backend* backend, const LayerPolicy& layers, CacheMode mode,
                 const LlamaHyperparameters& model);
  MatrixView<float> lse() override { return {lse_.data(), 1, static_cast<int64_t>(lse_.size())}; }
  // Steps before the first page has left the window are exact and not counted.
  void OnAttend(int32_t layer, const PagedRows& rows, const AttendCall& call) override;
  const std::vector<LayerQuality>& layers() const { return quality_; }

 private:
  void AttendExactly(int32_t layer, const PagedRows& rows, const AttendCall& call);
  void AddRecall(LayerQuality* quality) const;
  void AddError(const AttendCall& call, LayerQuality* quality) const;

  Backend* backend_;
  std::vector<bool> has_lse_;  // [layers]
  std::vector<LayerQuality> quality_;
  std::vector<float> lse_, exact_lse_, exact_out_;
  AttendScratch scratch_;
};

}  // namespace tailor
