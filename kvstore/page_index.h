// What the store computes when a page is sealed: the 4-bit index, kmax, mean rows, row checks and
// the page's checksum; and their verification. Pure functions over a pool's bytes.
#pragma once

#include "absl/status/status.h"
#include "kvstore/layout.h"

namespace tailor {

// Per sparse layer, KV head and channel c of the page's 128 keys:
//   kmax[c] = max |K[t][c]|, min[c] = min K[t][c], scale[c] = (max K[t][c] - min[c]) / 15,
//   code[t] = round_half_even((K[t][c] - min[c]) / scale[c]), packed as select/key_codes.h says
// |code * scale + min - K| <= scale / 2 plus rounding. Keys that are not finite count as zero; a
// channel whose scale would be below the smallest normal float has scale 0 and codes 0. The mean
// row is the mean of the 128 rows' K and V, summed in fp32 in token order, with not finite values
// as zero. Then the check of every row of every layer, and header->checksum over token ids and
// checks.
void SealPage(const PoolView& pool, PageId page);

// Errors: DataLoss naming layer, head and token of the first row that differs, or the checksum.
absl::Status VerifyPage(const PoolView& pool, PageId page);

// Zeroes token ids, rows and everything derived from them.
void ClearPage(const PoolView& pool, PageId page);

}  // namespace tailor
