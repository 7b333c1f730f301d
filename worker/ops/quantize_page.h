// Quantizes one page of one KV head; the layout of quantized_page.h in full:
//
//   K codes   [head_dim][page_tokens / 16][bits]   uint16 bit planes of 16 consecutive tokens' codes
//   K params  [head_dim][page_tokens / 64][2]      bf16 min, scale
//   V codes   [page_tokens][head_dim / 16][bits]   bit planes of 16 consecutive channels' codes
//   V params  [page_tokens][head_dim / 64][2]
//
// Bit planes: bit i of plane b is bit b of code i, so 1-bit codes unpack by one masked add and every
// width shares one layout. |x' - x| <= scale / 2 + the roundings of scale to bf16 and of x' to fp32,
// (|min| + top * scale) * 2^-8, and where scale is subnormal top * 2^-134; top = 2^bits - 1. A constant
// group has scale 0 and comes back exactly.
// Source: ALGORITHM §2; KIVI, arXiv:2402.02750.
#pragma once

#include <cstddef>

#include "common/bfloat16.h"
#include "worker/ops/quantized_page.h"

namespace tailor {

// rows: [kPageTokens][2][head_dim] -> page: shape.PageBytes(). Requires finite rows, and
// that max - min of a group is no larger than the largest bf16: beyond it there is no scale.
void QuantizePageRef(const BFloat16* rows, const QuantizedPageShape& shape, std::byte* page);

}  // namespace tailor
