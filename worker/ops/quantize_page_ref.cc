#include "worker/ops/quantize_page.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/types.h"

namespace tailor {
namespace {

constexpr int kPlaneCodes = 16;

// Quantizes 64 values at a stride to 64 codes in bit planes, and (min, scale).
void QuantizeGroup(const BFloat16* values, int64_t stride, int bits, uint16_t* planes,
                   BFloat16* params) {
  float low = ToFloat(values[0]), high = low;
  for (int i = 1; i < kQuantGroup; ++i) {
    low = std::min(low, ToFloat(values[i * stride]));
    high = std::max(high, ToFloat(values[i * stride]));
  }
  const int top = (1 << bits) - 1;
  params[0] = ToBFloat16(low);
  params[1] = ToBFloat16((high - low) / static_cast<float>(top));
  const float min = ToFloat(params[0]), scale = ToFloat(params[1]);
  for (int i = 0; i < kQuantGroup; ++i) {
    const float exact = scale > 0 ? (ToFloat(values[i * stride]) - min) / scale : 0.0f;
    const int code = std::clamp(static_cast<int>(std::nearbyint(exact)), 0, top);
    uint16_t* out = planes + i / kPlaneCodes * bits;
    for (int b = 0; b < bits; ++b) {
      out[b] = static_cast<uint16_t>(out[b] | ((code >> b) & 1) << (i % kPlaneCodes));
    }
  }
}

}  // namespace

int64_t QuantizedPageShape::CodeBytes() const { return int64_t{kPageTokens} * head_dim * bits / 8; }

int64_t QuantizedPageShape::ParamBytes() const {
  return int64_t{kPageTokens} * head_dim / kQuantGroup * 2 * static_cast<int64_t>(sizeof(BFloat16));
}

void QuantizePageRef(const BFloat16* rows, const QuantizedPageShape& shape, std::byte* page) {
  const int32_t d = shape.head_dim;
  const int64_t row_stride = int64_t{2} * d;
  const int64_t group_planes = int64_t{kQuantGroup} / kPlaneCodes * shape.bits;
  std::memset(page, 0, shape.PageBytes());
  auto* codes = reinterpret_cast<uint16_t*>(page);
  auto* params = reinterpret_cast<BFloat16*>(page + shape.CodeBytes());
  for (int32_t c = 0; c < d; ++c) {
    for (int32_t t = 0; t < kPageTokens; t += kQuantGroup, codes += group_planes, params += 2) {
      QuantizeGroup(rows + t * row_stride + c, row_stride, shape.bits, codes, params);
    }
  }
  std::byte* v = page + shape.CodeBytes() + shape.ParamBytes();
  codes = reinterpret_cast<uint16_t*>(v);
  params = reinterpret_cast<BFloat16*>(v + shape.CodeBytes());
  for (int32_t t = 0; t < kPageTokens; ++t) {
    for (int32_t c = 0; c < d; c += kQuantGroup, codes += group_planes, params += 2) {
      QuantizeGroup(rows + t * row_stride + d + c, 1, shape.bits, codes, params);
    }
  }
}

}  // namespace tailor
