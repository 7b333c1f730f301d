// Random rows of some KV heads in a backend's memory, cut into odd segments; the same on the host
// for the reference; and what may separate the two.
#pragma once

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "tests/worker/ops/op_test.h"
#include "worker/ops/attention.h"
#include "worker/ops/reference.h"

namespace tailor {

// `tokens` rows a KV head, the same content whatever the cut.
class SegmentedRows {
 public:
  // Pieces are of 1 to `longest` tokens, cut at random; 0: one piece.
  SegmentedRows(Backend& ops, int32_t kv_heads, int32_t head_dim, int64_t tokens, int64_t longest,
                uint64_t seed)
      : host_segments_(kv_heads), device_segments_(kv_heads) {
    std::mt19937_64 random(seed + 1);
    for (int32_t head = 0; head < kv_heads; ++head) {
      host_.push_back(RandomRows(tokens, head_dim, seed * 100 + head));
      for (int64_t first = 0; first < tokens;) {
        const int64_t piece = longest == 0 ? tokens : 1 + static_cast<int64_t>(random() % longest);
        const int64_t count = std::clamp<int64_t>(piece, 1, tokens - first);
        AddSegment(ops, head, first, count, head_dim);
        first += count;
      }
    }
    host_spans_.assign(host_segments_.begin(), host_segments_.end());
    device_spans_.assign(device_segments_.begin(), device_segments_.end());
  }

  std::span<const std::span<const RowSegment>> host() const { return host_spans_; }
  std::span<const std::span<const RowSegment>> device() const { return device_spans_; }
  const std::vector<std::vector<BFloat16>>& rows() const { return host_; }

 private:
  void AddSegment(Backend& ops, int32_t head, int64_t first, int64_t count, int32_t head_dim) {
    const std::span<const BFloat16> rows(host_[head].data() + first * 2 * head_dim,
                                         count * 2 * head_dim);
    DeviceBuffer buffer = *ops.Allocate(static_cast<int64_t>(rows.size_bytes()));
    ops.Upload(std::as_bytes(rows), buffer.data());
    host_segments_[head].push_back({rows.data(), static_cast<int32_t>(count)});
    device_segments_[head].push_back({buffer.As<BFloat16>(), static_cast<int32_t>(count)});
    buffers_.push_back(std::move(buffer));
  }

  std::vector<std::vector<BFloat16>> host_;  // [kv_heads][tokens * 2 * head_dim]
  std::vector<std::vector<RowSegment>> host_segments_, device_segments_;
  std::vector<std::span<const RowSegment>> host_spans_, device_spans_;
  std::vector<DeviceBuffer> buffers_;
};

// How far a float softmax over `tokens` rows may be from the exact one. With M = |q| |k| / sqrt(d),
// the largest score: a score is off by (d + 6) roundings of M (its d products and sums, the two of
// the scale, and that of the subtracted maximum, which may be 2M); e^s adds 2 ulp, so 4 roundings;
// a split of 256 tokens and the merges of the splits, each with an exponential of a difference, add
// theirs. A weight's share of error enters once above and once below the line.
struct AttentionTolerance {
  double weight = 0;  // relative error of a sum of weights
  double value = 0;   // largest |v|

  AttentionTolerance(int32_t head_dim, int64_t tokens, double max_q, double max_k, double max_v)
      : value(max_v) {
    const double score = max_q * max_k / std::sqrt(static_cast<double>(head_dim));
    const double splits = std::ceil(static_cast<double>(tokens) / 256);
    weight =
        kEps * ((head_dim + 6) * score + 4 + static_cast<double>(std::min<int64_t>(tokens, 256)) +
                (splits + 1) * (2 * score + 6));
  }
  double out() const { return 2 * weight * value + kEps * value; }
  double lse(double log_sum) const { return weight + 3 * kEps * std::abs(log_sum); }
};

inline double Norm(std::span<const float> values) {
  double sum = 0;
  for (const float value : values) sum += static_cast<double>(value) * value;
  return std::sqrt(sum);
}

// The tolerance of queries [.][q_heads * head_dim] over dequantized rows [tokens][2 * head_dim].
inline AttentionTolerance ToleranceOf(const HostMatrix& q,
                                      std::span<const std::vector<float>> heads, int32_t head_dim) {
  double max_q = 0, max_k = 0, max_v = 0;
  int64_t tokens = 0;
  for (int64_t r = 0; r < q.rows; ++r) {
    for (int64_t c = 0; c < q.cols; c += head_dim) {
      max_q = std::max(max_q, Norm(q.row(r).subspan(c, head_dim)));
    }
  }
  for (const std::vector<float>& rows : heads) {
    tokens = static_cast<int64_t>(rows.size()) / (2 * head_dim);
    for (int64_t t = 0; t < tokens; ++t) {
      const std::span<const float> row(rows.data() + t * 2 * head_dim, 2 * head_dim);
      max_k = std::max(max_k, Norm(row.first(head_dim)));
      for (const float v : row.subspan(head_dim)) max_v = std::max(max_v, std::abs(double{v}));
    }
  }
  return AttentionTolerance(head_dim, tokens, max_q, max_k, max_v);
}

inline std::vector<float> ToFloats(const std::vector<BFloat16>& rows) {
  std::vector<float> floats;
  for (const BFloat16 value : rows) floats.push_back(ToFloat(value));
  return floats;
}

// Attention of one query with means beside the rows, and the same by the reference. All heads'
// rows, means too, are in `heads`.
struct MeansCase {
  MeansCase(Backend& ops, int64_t tokens, int64_t mean_count, int32_t group, int32_t head_dim,
            float log_weight, int32_t kv_heads = 2)
      : q(RandomMatrix(1, int64_t{kv_heads} * group * head_dim, 3)),
        want_out(1, q.cols),
        want_lse(1, q.cols / head_dim) {
    const SegmentedRows rows(ops, kv_heads, head_dim, tokens, 150, tokens);
    const SegmentedRows means(ops, kv_heads, head_dim, mean_count, 32, tokens + 1000);
    RowAttention call = {.q = q.view(),
                         .segments = rows.host(),
                         .head_dim = head_dim,
                         .mask = Mask::kNone,
                         .out = want_out.view(),
                         .lse = want_lse.view(),
                         .means = means.host(),
                         .mean_log_weight = log_weight};
    AttendRef(call);
    const DeviceMatrix device_q(ops, q), device_out(ops, 1, q.cols),
        device_lse(ops, 1, want_lse.cols);
    call.q = device_q.view();
    call.segments = rows.device();
    call.out = device_out.view();
    call.lse = device_lse.view();
    call.means = means.device();
    ops.Attend(call);
    out = device_out.Download();
    lse = device_lse.Download();
    for (int32_t head = 0; head < kv_heads; ++head) {
      heads.push_back(ToFloats(rows.rows()[head]));
      const std::vector<float> more = ToFloats(means.rows()[head]);
      heads.back().insert(heads.back().end(), more.begin(), more.end());
    }
  }
  // What adding log_weight to a maximum and the merge of one more kind of split round.
  static double MoreRounding(float log_weight) { return kEps * (2 * std::abs(log_weight) + 8); }

  HostMatrix q, want_out, want_lse, out{0, 0}, lse{0, 0};
  std::vector<std::vector<float>> heads;
};

inline constexpr float kMeanLogWeights[] = {0.0f, 4.85f, -3.0f};

}  // namespace tailor
