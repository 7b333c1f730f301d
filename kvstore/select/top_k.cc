#include "kvstore/select/top_k.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>

namespace tailor {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();
constexpr size_t kLanes = 16;
typedef float Floats16 __attribute__((vector_size(64)));

float Clean(float score) { return score == score ? score : kLowest; }

// Scores a block: at least twice as many blocks as k, or the bound says little.
size_t BlockSize(size_t n, int32_t k) {
  return std::clamp<size_t>(n / (2 * static_cast<size_t>(k)), 1, 16);
}

// A value that at least k scores reach: the k-th largest block maximum. A block is one lane of
// `block` consecutive vectors: any partition serves. NaN loses every comparison.
float Bound(std::span<const float> scores, int32_t k, std::vector<float>& block_max) {
  block_max.clear();
  const size_t block = BlockSize(scores.size(), k);
  const size_t whole = scores.size() / (block * kLanes) * (block * kLanes);
  for (size_t first = 0; first < whole; first += block * kLanes) {
    Floats16 largest = kLowest - Floats16{};
    for (size_t i = 0; i < block; ++i) {
      Floats16 next;
      std::memcpy(&next, scores.data() + first + i * kLanes, sizeof(next));
      largest = next > largest ? next : largest;
    }
    float lanes[kLanes];
    std::memcpy(lanes, &largest, sizeof(lanes));
    block_max.insert(block_max.end(), lanes, lanes + kLanes);
  }
  for (size_t i = whole; i < scores.size(); ++i) block_max.push_back(Clean(scores[i]));
  if (static_cast<size_t>(k) > block_max.size()) return kLowest;
  std::nth_element(block_max.begin(), block_max.begin() + (k - 1), block_max.end(),
                   std::greater<float>());
  return block_max[k - 1];
}

// Positions of all scores that reach `bound`, ascending.
void Collect(std::span<const float> scores, float bound, std::vector<int32_t>& survivors) {
  survivors.clear();
  const auto take = [&](size_t first, size_t last) {
    for (size_t i = first; i < last; ++i) {
      if (Clean(scores[i]) >= bound) survivors.push_back(static_cast<int32_t>(i));
    }
  };
  if (bound == kLowest) return take(0, scores.size());
  size_t i = 0;
  for (; i + kLanes <= scores.size(); i += kLanes) {
    bool any = false;
    for (size_t lane = 0; lane < kLanes; ++lane) any |= scores[i + lane] >= bound;
    if (any) take(i, i + kLanes);
  }
  take(i, scores.size());
}

}  // namespace

void TopK(std::span<const float> scores, int32_t k, std::vector<float>& block_max,
          std::vector<int32_t>& survivors, std::vector<int32_t>* out) {
  const auto count = std::min<size_t>(static_cast<size_t>(k), scores.size());
  if (count == 0) return;
  if (count == scores.size()) {
    const size_t first = out->size();
    out->resize(first + count);
    std::iota(out->begin() + static_cast<int64_t>(first), out->end(), 0);
    return;
  }
  Collect(scores, Bound(scores, k, block_max), survivors);
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
