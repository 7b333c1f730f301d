// The store's check of a row, kvstore/select/row_check.h: XXH3 over its 256 or 512 bytes, taken
// apart so that each thread of a warp hashes the 16 bytes it holds. From the definition of
// XXH3_64bits for inputs of 241 to 1024 bytes: eight sums over stripes of 64 bytes, then four
// folded products.
#pragma once

#include "worker/ops/cuda/host_device.h"

namespace tailor::cuda {

inline constexpr int32_t kCheckPiece = 16, kCheckStripe = 64;  // bytes; a stripe is four pieces

// XXH3's default secret. Indexed by lane: in a kernel it must be memory, not a local array.
TS_TABLE uint64_t kCheckSecret[24] = {
    0xbe4ba423396cfeb8, 0x1cad21f72c81017c, 0xdb979083e96dd4de, 0x1f67b3b7a4a44072,
    0x78e5c0cc4ee679cb, 0x2172ffcc7dd05a82, 0x8e2443f7744608b8, 0x4c263a81e69035e0,
    0xcb00c391bb52283c, 0xa32e531b8b65d088, 0x4ef90da297486471, 0xd8acdea946ef1938,
    0x3f349ce33f76faa8, 0x1d4f0bc7c7bbdcf9, 0x3159b4cd4be0518a, 0x647378d9c97e9fc8,
    0xc3ebd33483acc5ea, 0xeb6313faffa081c5, 0x49daf0b751dd0d17, 0x9e68d429265516d3,
    0xfca1477d58be162b, 0xce31d07ad1b8f88f, 0x280416958f3acb45, 0x7e404bbbcafbd7af};
TS_TABLE_USER uint64_t CheckSecret(int32_t byte) {
  const int32_t word = byte / 8, shift = byte % 8 * 8;
  const uint64_t low = kCheckSecret[word] >> shift;
  return shift == 0 ? low : low | kCheckSecret[word + 1] << (64 - shift);
}
TS_TABLE uint64_t kCheckStart[8] = {0xC2B2AE3D,         0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F,
                                    0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x85EBCA77,
                                    0x27D4EB2F165667C5, 0x9E3779B1};

// Two neighbouring sums of the eight: those that one piece of every stripe adds to.
struct CheckSums {
  uint64_t a = 0, b = 0;
};

// What the piece at `byte` of a row of `bytes` adds. x, y: its two words, little-endian.
TS_TABLE_USER CheckSums CheckOfPiece(uint64_t x, uint64_t y, int32_t byte, int32_t bytes) {
  constexpr int32_t kSecretBytes = 192, kLastStart = 7;
  const int32_t stripe = byte / kCheckStripe, inside = byte % kCheckStripe;
  const bool last = byte + kCheckStripe >= bytes + inside;
  const int32_t secret = inside + (last ? kSecretBytes - kCheckStripe - kLastStart : 8 * stripe);
  const uint64_t p = x ^ CheckSecret(secret), q = y ^ CheckSecret(secret + 8);
  return {y + (p & 0xffffffffu) * (p >> 32), x + (q & 0xffffffffu) * (q >> 32)};
}

// The folded product of the pieces at `inside` of all stripes.
TS_TABLE_USER uint64_t FoldChecks(CheckSums sums, int32_t inside) {
  constexpr int32_t kMergeStart = 11;
  const uint64_t a = (sums.a + kCheckStart[inside / 8]) ^ CheckSecret(kMergeStart + inside);
  const uint64_t b = (sums.b + kCheckStart[inside / 8 + 1]) ^ CheckSecret(kMergeStart + inside + 8);
#ifdef __CUDA_ARCH__
  return a * b ^ __umul64hi(a, b);
#else
  const auto product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
#endif
}

// folds: the sum of the four.
TS_HD uint32_t FinishCheck(uint64_t folds, int32_t bytes) {
  uint64_t check = folds + static_cast<uint64_t>(bytes) * 0x9E3779B185EBCA87;
  check ^= check >> 37;
  check *= 0x165667919E3779F9;
  check ^= check >> 32;
  return static_cast<uint32_t>(check);
}

}  // namespace tailor::cuda
