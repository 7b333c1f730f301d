// The references of attention: AttendRef, DequantizePageRef, AttendQuantizedRef.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "worker/ops/reference.h"

namespace tailor {
namespace {

// One KV head's tokens in order: [tokens][2 * head_dim], K then V.
using HeadRows = std::vector<float>;

void AppendSegments(std::span<const RowSegment> segments, int32_t head_dim, HeadRows* rows) {
  for (const RowSegment& segment : segments) {
    for (int64_t i = 0; i < int64_t{segment.tokens} * 2 * head_dim; ++i) {
      rows->push_back(ToFloat(segment.rows[i]));
    }
  }
}

// softmax(q K^T / sqrt(d)) V over the first `visible` tokens, those from `first_mean` on with
// log_weight added to their scores; returns the log of the denominator of those before.
double SoftmaxOver(std::span<const float> q, const HeadRows& rows, int64_t visible,
                   int64_t first_mean, double log_weight, std::span<float> out) {
  const auto d = static_cast<int64_t>(q.size());
  std::vector<double> scores(visible, 0.0);
  for (int64_t t = 0; t < visible; ++t) {
    for (int64_t c = 0; c < d; ++c) scores[t] += static_cast<double>(q[c]) * rows[t * 2 * d + c];
    scores[t] /= std::sqrt(static_cast<double>(d));
    if (t >= first_mean) scores[t] += log_weight;
  }
  const double max = *std::max_element(scores.begin(), scores.end());
  double sum = 0, sum_before = 0;
  for (int64_t t = 0; t < visible; ++t) {
    sum += scores[t] = std::exp(scores[t] - max);
    if (t < first_mean) sum_before = sum;
  }
  for (int64_t c = 0; c < d; ++c) {
    double value = 0;
    for (int64_t t = 0; t < visible; ++t) value += scores[t] / sum * rows[t * 2 * d + d + c];
    out[c] = static_cast<float>(value);
  }
  return max + std::log(sum_before);
}

// All queries of the query heads that read KV head `kv_head` of `kv_heads`. The last `means` rows
// are a.means.
void AttendHead(const RowAttention& a, int64_t kv_head, int64_t kv_heads, const HeadRows& rows,
                int64_t means) {
  const int64_t d = a.head_dim, q_heads = a.q.cols / d, group = q_heads / kv_heads;
  const int64_t tokens = static_cast<int64_t>(rows.size()) / (2 * d);
  for (int64_t i = 0; i < a.q.rows; ++i) {
    const int64_t visible = a.mask == Mask::kCausal ? tokens - (a.q.rows - 1 - i) : tokens;
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      const double lse = SoftmaxOver(a.q.row(i).subspan(head * d, d), rows, visible, tokens - means,
                                     a.mean_log_weight, a.out.row(i).subspan(head * d, d));
      if (a.lse.data != nullptr) a.lse(i, head) = static_cast<float>(lse);
    }
  }
}

// Values of a K or V block of one page: groups[i] is (min, scale) of 64 consecutive codes, whose
// bits lie in planes of 16: bit i of plane b is bit b of code i.
class Codes {
 public:
  Codes(const std::byte* codes, const std::byte* params, int32_t bits)
      : codes_(codes), params_(params), bits_(bits) {}
  float Value(int64_t i) const {
    int code = 0;
    for (int b = 0; b < bits_; ++b) {
      code |= (Read16(codes_, i / 16 * bits_ + b) >> (i % 16) & 1) << b;
    }
    const double min = ToFloat(BFloat16{Read16(params_, i / kQuantGroup * 2)});
    const double scale = ToFloat(BFloat16{Read16(params_, i / kQuantGroup * 2 + 1)});
    return static_cast<float>(min + code * scale);
  }

 private:
  static uint16_t Read16(const std::byte* bytes, int64_t index) {
    uint16_t value;
    std::memcpy(&value, bytes + 2 * index, sizeof(value));
    return value;
  }
  const std::byte* codes_;
  const std::byte* params_;
  const int32_t bits_;
};

}  // namespace

void AttendRef(const RowAttention& a) {
  const auto kv_heads = static_cast<int64_t>(a.segments.size());
  for (int64_t head = 0; head < kv_heads; ++head) {
    HeadRows rows;
    AppendSegments(a.segments[head], a.head_dim, &rows);
    const size_t exact = rows.size();
    if (!a.means.empty()) AppendSegments(a.means[head], a.head_dim, &rows);
    AttendHead(a, head, kv_heads, rows,
               static_cast<int64_t>(rows.size() - exact) / (2 * a.head_dim));
  }
}

void DequantizePageRef(const std::byte* page, const QuantizedPageShape& shape,
                       MatrixView<float> rows) {
  const int64_t d = shape.head_dim;
  const std::byte* v = page + shape.CodeBytes() + shape.ParamBytes();
  const Codes keys(page, page + shape.CodeBytes(), shape.bits);
  const Codes values(v, v + shape.CodeBytes(), shape.bits);
  for (int64_t t = 0; t < kPageTokens; ++t) {
    for (int64_t c = 0; c < d; ++c) {
      rows(t, c) = keys.Value(c * kPageTokens + t);  // channel by channel
      rows(t, d + c) = values.Value(t * d + c);      // token by token
    }
  }
}

void AttendQuantizedRef(const QuantizedAttention& a) {
  const auto kv_heads = static_cast<int64_t>(a.residual.size());
  const int64_t row = int64_t{2} * a.shape.head_dim;
  const RowAttention exact = {.q = a.q,
                              .segments = a.residual,
                              .head_dim = a.shape.head_dim,
                              .mask = Mask::kNone,
                              .out = a.out,
                              .lse = {}};
  for (int64_t head = 0; head < kv_heads; ++head) {
    HeadRows rows;
    for (const std::byte* page : a.pages[head]) {
      rows.resize(rows.size() + kPageTokens * row);
      DequantizePageRef(page, a.shape,
                        {rows.data() + rows.size() - kPageTokens * row, kPageTokens, row});
    }
    AppendSegments(a.residual[head], a.shape.head_dim, &rows);
    AttendHead(exact, head, kv_heads, rows, 0);
  }
}

}  // namespace tailor
