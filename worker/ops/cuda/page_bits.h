// The bytes of a quantized page (worker/ops/quantize_page.h) as kernels index them, and the codes
// themselves.
#pragma once

#include "worker/ops/cuda/host_device.h"

namespace tailor::cuda {

inline constexpr int kPageRows = 128;   // kPageTokens
inline constexpr int kGroup = 64;       // kQuantGroup
inline constexpr int kPlaneCodes = 16;  // codes of one uint16 plane

// Offsets in bytes from the page's start. Blocks: K codes, K params, V codes, V params.
struct PageBits {
  int32_t bits = 0, head_dim = 0;

  TS_HD int64_t CodeBytes() const { return int64_t{kPageRows} * head_dim * bits / 8; }
  TS_HD int64_t ParamBytes() const { return int64_t{kPageRows} * head_dim / kGroup * 4; }
  TS_HD int64_t HalfBytes() const { return CodeBytes() + ParamBytes(); }
  TS_HD int64_t PageBytes() const { return 2 * HalfBytes(); }
  // 16 codes of K: of one channel, tokens [16 * block, 16 * block + 16). 2 * bits bytes.
  TS_HD int64_t KeyWord(int32_t channel, int32_t block) const {
    return (int64_t{channel} * (kPageRows / kPlaneCodes) + block) * 2 * bits;
  }
  TS_HD int64_t KeyParam(int32_t channel, int32_t group) const {
    return CodeBytes() + (int64_t{channel} * (kPageRows / kGroup) + group) * 4;
  }
  // 16 codes of V: of one token, channels [16 * block, 16 * block + 16).
  TS_HD int64_t ValueWord(int32_t token, int32_t block) const {
    return HalfBytes() + (int64_t{token} * (head_dim / kPlaneCodes) + block) * 2 * bits;
  }
  TS_HD int64_t ValueParam(int32_t token, int32_t group) const {
    return HalfBytes() + CodeBytes() + (int64_t{token} * (head_dim / kGroup) + group) * 4;
  }
};

// Code `i` (0..15) of a word of Bits planes.
template <int Bits>
TS_HD uint32_t CodeAt(const uint16_t* planes, int32_t i) {
  uint32_t code = 0;
  TS_UNROLL
  for (int b = 0; b < Bits; ++b) code |= ((static_cast<uint32_t>(planes[b]) >> i) & 1u) << b;
  return code;
}

struct GroupParams {
  uint16_t min_bits, scale_bits;  // bf16
};

// (min, scale) of a group from its extremes; as QuantizePageRef, operation by operation.
TS_HD GroupParams ParamsOf(float low, float high, int32_t bits) {
  const float top = static_cast<float>((1 << bits) - 1);
  return {ToBf16Bits(low), ToBf16Bits((high - low) / top)};
}
TS_HD uint32_t CodeOf(float value, float min, float scale, int32_t bits) {
  if (!(scale > 0.0f)) return 0;
  const float top = static_cast<float>((1 << bits) - 1);
#ifdef __CUDA_ARCH__
  const float nearest = rintf((value - min) / scale);
#else
  const float nearest = __builtin_nearbyintf((value - min) / scale);
#endif
  return static_cast<uint32_t>(nearest < 0.0f ? 0.0f : nearest > top ? top : nearest);
}

// A whole group: 64 bf16 values at `stride`, to planes [4][bits] and params (min, scale).
TS_HD void QuantizeGroup(const uint16_t* values, int64_t stride, int32_t bits, uint16_t* planes,
                         uint16_t* params) {
  float low = FromBf16Bits(values[0]), high = low;
  for (int i = 1; i < kGroup; ++i) {
    const float value = FromBf16Bits(values[i * stride]);
    low = value < low ? value : low;
    high = high < value ? value : high;
  }
  const GroupParams group = ParamsOf(low, high, bits);
  params[0] = group.min_bits;
  params[1] = group.scale_bits;
  const float min = FromBf16Bits(group.min_bits), scale = FromBf16Bits(group.scale_bits);
  for (int block = 0; block < kGroup / kPlaneCodes; ++block) {
    uint32_t words[8] = {};
    for (int i = 0; i < kPlaneCodes; ++i) {
      const float value = FromBf16Bits(values[(block * kPlaneCodes + i) * stride]);
      const uint32_t code = CodeOf(value, min, scale, bits);
      TS_UNROLL
      for (int b = 0; b < 8; ++b) words[b] |= ((code >> b) & 1u) << i;
    }
    TS_UNROLL
    for (int b = 0; b < 8; ++b) {
      if (b < bits) planes[block * bits + b] = static_cast<uint16_t>(words[b]);
    }
  }
}

}  // namespace tailor::cuda
