#include "kvstore/select/top_k.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>

namespace tailor {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();

// At least twice as many blocks as k: with fewer the bound says little and everything survives.
size_t BlockSize(size_t n, int32_t k) {
  return std::clamp<size_t>(n / (2 * static_cast<size_t>(k)), 1, 16);
}

float Clean(float score) { return score == score ? score : kLowest; }

// A value that at least k scores reach: the k-th largest block maximum.
float Bound(std::span<const float> scores, int32_t k, std::vector<float>& block_max) {
  block_max.clear();
  const size_t block = BlockSize(scores.size(), k);
  for (size_t first = 0; first < scores.size(); first += block) {
    const size_t last = std::min(first + block, scores.size());
    float largest = kLowest;
    for (size_t i = first; i < last; ++i) largest = std::max(largest, Clean(scores[i]));
    block_max.push_back(largest);
  }
  if (static_cast<size_t>(k) > block_max.size()) return kLowest;
  std::nth_element(block_max.begin(), block_max.begin() + (k - 1), block_max.end(),
                   std::greater<float>());
  return block_max[k - 1];
}

}  // namespace

void TopK(std::span<const float> scores, int32_t k, std::vector<float>& block_max,
          std::vector<int32_t>& survivors, std::vector<int32_t>* out) {
  const auto count = std::min<size_t>(static_cast<size_t>(k), scores.size());
  if (count == scores.size()) {
    const size_t first = out->size();
    out->resize(first + count);
    std::iota(out->begin() + static_cast<int64_t>(first), out->end(), 0);
    return;
  }
  const float bound = Bound(scores, k, block_max);
  survivors.clear();
  for (size_t i = 0; i < scores.size(); ++i) {
    if (Clean(scores[i]) >= bound) survivors.push_back(static_cast<int32_t>(i));
  }
  const auto before = [&](int32_t a, int32_t b) {
    const float sa = Clean(scores[a]), sb = Clean(scores[b]);
    return sa != sb ? sa > sb : a < b;
  };
  const auto cut = survivors.begin() + static_cast<int64_t>(count);
  if (cut != survivors.end()) std::nth_element(survivors.begin(), cut, survivors.end(), before);
  std::sort(survivors.begin(), cut);
  out->insert(out->end(), survivors.begin(), cut);
}

}  // namespace tailor
