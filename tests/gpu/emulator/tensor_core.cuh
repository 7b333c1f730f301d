// The instructions of worker/ops/cuda/tensor_core.cuh, from their definition in the PTX manual:
// which lane holds which element of which register.
#pragma once

#include "tests/gpu/emulator/simt.h"
#include "worker/ops/cuda/host_device.h"

namespace tailor::cuda {

inline uint32_t PackBf16(float low, float high) {
  return static_cast<uint32_t>(ToBf16Bits(low)) | static_cast<uint32_t>(ToBf16Bits(high)) << 16;
}

inline uint32_t AndOr(uint32_t value, uint32_t mask, uint32_t base) {
  return (value & mask) | base;
}

inline uint32_t FmaPairs(uint32_t a, uint32_t b, uint32_t c) {
  const auto half = [&](int shift) {
    const auto value = [&](uint32_t pair) {
      return double{FromBf16Bits(static_cast<uint16_t>(pair >> shift))};
    };
    // Exact in double for what kernels ask: codes of at most 9 bits.
    return static_cast<uint32_t>(ToBf16Bits(static_cast<float>(value(a) * value(b) + value(c))));
  };
  return half(0) | half(16) << 16;
}

inline uint4 LoadStreaming(const void* pieces, int32_t index, bool inside) {
  return inside ? static_cast<const uint4*>(pieces)[index] : uint4{};
}

// d[i] of lane l is row l / 4 + 8 * (i / 2), column 2 * (l % 4) + i % 2.
inline void Mma(float* d, const uint32_t* a, const uint32_t* b) {
  struct Operands {
    uint32_t a[4], b[2];
  } mine;
  std::memcpy(mine.a, a, sizeof(mine.a));
  std::memcpy(mine.b, b, sizeof(mine.b));
  const emulator::Exchanged* lanes = emulator::Exchange(&mine, sizeof(mine));
  const int lane = emulator::Lane();
  float left[2][16], right[2][16];  // the rows and columns of this lane's elements
  for (int k = 0; k < 16; ++k) {
    const int quad = k % 8 / 2, shift = 16 * (k % 2);
    const auto a_of = emulator::ValueOf<Operands>(lanes, lane / 4 * 4 + quad);
    left[0][k] = FromBf16Bits(static_cast<uint16_t>(a_of.a[k / 8 * 2] >> shift));
    left[1][k] = FromBf16Bits(static_cast<uint16_t>(a_of.a[k / 8 * 2 + 1] >> shift));
    for (int i = 0; i < 2; ++i) {
      const auto b_of = emulator::ValueOf<Operands>(lanes, (lane % 4 * 2 + i) * 4 + quad);
      right[i][k] = FromBf16Bits(static_cast<uint16_t>(b_of.b[k / 8] >> shift));
    }
  }
  for (int i = 0; i < 4; ++i) {
    for (int k = 0; k < 16; ++k) d[i] += left[i / 2][k] * right[i % 2][k];
  }
}

// Register j of lane l: elements 2 * (l % 4) and the next of row l / 4 of matrix j; lane 8 j + r
// gives the address of its row r. Transposed: the same of the matrix's transpose.
inline void LoadMatrices(uint32_t* out, const uint16_t* address, bool transposed) {
  const emulator::Exchanged* lanes = emulator::Exchange(&address, sizeof(address));
  const int row = emulator::Lane() / 4, column = emulator::Lane() % 4 * 2;
  for (int j = 0; j < 4; ++j) {
    const auto at = [&](int r, int c) {
      return emulator::ValueOf<const uint16_t*>(lanes, 8 * j + r)[c];
    };
    const uint16_t low = transposed ? at(column, row) : at(row, column);
    const uint16_t high = transposed ? at(column + 1, row) : at(row, column + 1);
    out[j] = low | static_cast<uint32_t>(high) << 16;
  }
}
inline void LoadMatrix4(uint32_t* out, const uint16_t* address) {
  LoadMatrices(out, address, false);
}
inline void LoadMatrix4Transposed(uint32_t* out, const uint16_t* address) {
  LoadMatrices(out, address, true);
}

inline void CopyAsync(uint16_t* to, const uint16_t* from, int bytes) {
  emulator::DeferCopy(to, from, bytes);
}
inline void CommitCopies() {}
template <int kPending>
void AwaitCopies() {
  static_assert(kPending == 0);
  emulator::RunCopies();
}

}  // namespace tailor::cuda
