// What a selection asks for in each layer, at the sequence's budget.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "kvstore/select/select.h"

namespace tailor {

class LayerParams {
 public:
  // layer_top_k: params.top_k of each layer, or empty (LayerPolicy).
  LayerParams(const SelectParams& params, std::vector<int32_t> layer_top_k)
      : params_(params), layer_top_k_(std::move(layer_top_k)) {}
  SelectParams Of(int32_t layer) const {
    SelectParams params = params_;
    if (!layer_top_k_.empty()) params.top_k = layer_top_k_[layer];
    const int64_t rows = int64_t{params.top_k} << doublings_;
    params.top_k = static_cast<int32_t>(std::min<int64_t>(rows, kMaxTopK));
    return params;
  }
  void SetDoublings(int32_t doublings) { doublings_ = doublings; }

 private:
  SelectParams params_;
  std::vector<int32_t> layer_top_k_;
  int32_t doublings_ = 0;
};

}  // namespace tailor
