// Mass recall and output error of sparse layers, against exact attention over all rows in the store.
// ALGORITHM §6.
#pragma once

#include <vector>

#include "worker/cache/sequence_cache.h"
#include "worker/ops/backend.h"

namespace tailor {

struct LayerQuality {
  double recall_sum = 0, worst_recall = 1;  // over query heads and steps
  double error_sum = 0;                     // ||o_sparse - o_exact|| / ||o_exact||, per step
  int64_t heads = 0, steps = 0;

  double mean_recall() const { return heads > 0 ? recall_sum / static_cast<double>(heads) : 1; }
  double mean_error() const { return steps > 0 ? error_sum / static_cast<double>(steps) : 0; }
};

class RecallProbe final : public AttendProbe {
 public:
  // CPU backends only: reads rows and outputs in place.
  RecallProbe(Backend* backend, int32_t layers, int32_t q_heads);
  MatrixView<float> lse() override { return {lse_.data(), 1, static_cast<int64_t>(lse_.size())}; }
  void OnAttend(int32_t layer, const PagedRows& rows, const AttendCall& call) override;
  const std::vector<LayerQuality>& layers() const { return quality_; }

 private:
  Backend* backend_;
  std::vector<LayerQuality> quality_;
  std::vector<float> lse_, exact_lse_, exact_out_;
  AttendScratch scratch_;
};

}  // namespace tailor
