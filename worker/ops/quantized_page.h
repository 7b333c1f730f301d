// One page (kPageTokens tokens) of one KV head at 1, 2, 4 or 8 bits. Source: ALGORITHM §2.
//
//   K per channel: a group is 64 consecutive tokens of one channel
//   V per token:   a group is 64 consecutive channels of one token
//   min = group minimum, scale = (max - min) / (2^bits - 1), code = round_half_even((x - min)/scale)
//   x'  = min + code * scale        min and scale are rounded to bf16 before codes are computed
// All in fp32, each operation rounded by itself, so that every backend finds the same codes.
//
// Bytes of a page, in order: K codes, K params, V codes, V params; see PageBytes and quantize_page.h
// for the order inside each.
#pragma once

#include <cstdint>

namespace tailor {

inline constexpr int kQuantGroup = 64;

struct QuantizedPageShape {
  int32_t bits = 0;  // 1, 2, 4, 8
  int32_t head_dim = 0;  // a multiple of 64

  int64_t CodeBytes() const;   // of K, and the same of V
  int64_t ParamBytes() const;  // of K, and the same of V: bf16 min and scale per group
  int64_t PageBytes() const { return 2 * (CodeBytes() + ParamBytes()); }
};

}  // namespace tailor
