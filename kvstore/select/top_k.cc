#include "kvstore/select/top_k.h"

#include <emmintrin.h>

#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <numeric>

namespace tailor {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();
constexpr size_t kLanes = 4;

float Clean(float score) { return score == score ? score : kLowest; }

// Scores a block: at least twice as many blocks as k, or the bound says little.
size_t BlockSize(size_t n, int32_t k) {
  return std::clamp<size_t>(n / (2 * static_cast<size_t>(k)), 1, 16);
}

// Order of floats as order of integers; -0 below 0.
uint32_t Key(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return bits ^ (static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000u);
}
float ValueOf(uint32_t key) {
  return std::bit_cast<float>(key ^ (key >> 31 != 0 ? 0x80000000u : 0xffffffffu));
}

// The k-th largest of values without NaN, 1 <= k <= their number, by counting bytes from the
// highest down: no comparison to mispredict. Overwrites values.
float KthLargest(std::span<float> values, size_t k) {
  for (float& value : values) value = std::bit_cast<float>(Key(value));
  size_t n = values.size();
  uint32_t prefix = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    std::array<uint32_t, 256> counts{};
    for (size_t i = 0; i < n; ++i) ++counts[std::bit_cast<uint32_t>(values[i]) >> shift & 255];
    uint32_t byte = 255;
    for (; counts[byte] < k; --byte) k -= counts[byte];
    prefix |= byte << shift;
    size_t kept = 0;
    for (size_t i = 0; i < n; ++i) {
      const auto key = std::bit_cast<uint32_t>(values[i]);
      values[kept] = values[i];
      kept += (key >> shift & 255) == byte;
    }
    n = kept;
  }
  return ValueOf(prefix);
}

// A value that at least k scores reach: the k-th largest block maximum. A block is one lane of
// `block` consecutive vectors: any partition serves. NaN loses every comparison.
float Bound(std::span<const float> scores, int32_t k, std::vector<float>& block_max) {
  block_max.clear();
  const size_t block = BlockSize(scores.size(), k);
  const size_t whole = scores.size() / (block * kLanes) * (block * kLanes);
  block_max.resize(whole / block);
  float* out = block_max.data();
  for (size_t first = 0; first < whole; first += block * kLanes, out += kLanes) {
    __m128 largest = _mm_set1_ps(kLowest);
    for (size_t i = 0; i < block; ++i) {
      // The second operand where the first is not a number.
      largest = _mm_max_ps(_mm_loadu_ps(scores.data() + first + i * kLanes), largest);
    }
    _mm_storeu_ps(out, largest);
  }
  for (size_t i = whole; i < scores.size(); ++i) block_max.push_back(Clean(scores[i]));
  if (static_cast<size_t>(k) > block_max.size()) return kLowest;
  return KthLargest(block_max, static_cast<size_t>(k));
}

// Positions of all scores that reach `bound`, ascending.
void Collect(std::span<const float> scores, float bound, std::vector<int32_t>& survivors) {
  survivors.resize(scores.size());
  size_t count = 0, i = 0;
  const __m128 bounds = _mm_set1_ps(bound);
  for (; bound != kLowest && i + kLanes <= scores.size(); i += kLanes) {
    auto mask = static_cast<unsigned>(
        _mm_movemask_ps(_mm_cmpge_ps(_mm_loadu_ps(scores.data() + i), bounds)));
    for (; mask != 0; mask &= mask - 1) {
      survivors[count++] = static_cast<int32_t>(i) + std::countr_zero(mask);
    }
  }
  for (; i < scores.size(); ++i) {
    survivors[count] = static_cast<int32_t>(i);
    count += Clean(scores[i]) >= bound;
  }
  survivors.resize(count);
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
  std::vector<float>& values = block_max;
  values.resize(survivors.size());
  for (size_t i = 0; i < values.size(); ++i) values[i] = Clean(scores[survivors[i]]);
  const float last = KthLargest(values, count);
  // All above the last value, and as many equal to it as there is room for, the lower first.
  size_t above = 0;
  for (const int32_t i : survivors) above += Clean(scores[i]) > last;
  size_t equal = count - above;
  for (const int32_t i : survivors) {
    const float score = Clean(scores[i]);
    if (score < last || (score == last && equal == 0)) continue;
    equal -= score == last;
    out->push_back(i);
  }
}

}  // namespace tailor
