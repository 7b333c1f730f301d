// How far products on the device may be from exact ones.
#pragma once

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>

#include "tests/gpu/gpu_test.h"
#include "tests/worker/ops/weights_in_file.h"
#include "worker/ops/half.h"

namespace tailor {

inline HostMatrix Abs(HostMatrix matrix) {
  for (float& value : matrix.values) value = std::abs(value);
  return matrix;
}
inline HostMatrix Product(HostMatrix x, HostMatrix w) {
  HostMatrix out(x.rows, w.rows);
  MatMulRef(x.view(), w.view(), out.view());
  return out;
}

// The size of what a weight's products are summed of. Products on tensor cores take a Q4_1 weight
// d * code + m as d * (code - 8) and m + 8 d, which may cancel.
inline HostMatrix Sizes(const FileWeight& file) {
  const HostMatrix values = file.Values();
  HostMatrix sizes = Abs(values);
  if (file.dtype != DType::kQ4_1) return sizes;
  const auto half = [&](int64_t at) {
    uint16_t bits;
    std::memcpy(&bits, file.bytes.data() + at, sizeof(bits));
    return HalfToFloat(bits);
  };
  for (size_t i = 0; i < sizes.values.size(); ++i) {
    const int64_t block = static_cast<int64_t>(i) / 32 * BlockBytes(file.dtype);
    const float m = half(block + 2) + 8 * half(block);
    sizes.values[i] = std::abs(m) + std::abs(values.values[i] - m);
  }
  return sizes;
}

// linear_mma.cu, unless this run asks for linear.cu.
inline bool OnTensorCoresExactly(DType dtype, int64_t rows) {
  const char* products = std::getenv("TAILOR_CUDA_PRODUCTS");
  const bool taken = dtype == DType::kBF16 || dtype == DType::kQ8_0 || dtype == DType::kQ4_0 ||
                     dtype == DType::kQ4_1;
  return !TestsRunOnCpu() && rows <= 16 && taken &&
         (products == nullptr || std::string(products) != "fma");
}

// A sum of n products: n + 2 roundings of the terms' magnitudes. Beyond 16 rows both inputs of each
// product are rounded to bf16 (to first order 2 * 2^-8; the bound allows their product too).
//
// Up to 16 rows on tensor cores: a block of 32 has two instructions for the highest parts of x. One
// sums 16 products and its accumulator; hardware (which says nothing of it; as measured by Fasi et
// al. 2021) aligns the 17 to the largest and cuts each below its last bit, 2 kEps: 68 in all, and
// the lower parts, 2^-8 as large, less than 2 more. One of eight warps adds every eighth group, of
// up to four blocks, twice with a minimum: n / 128 additions, and at most 8 of a group that the
// others lack. Eight warps, five additions in a block's sum of inputs, m + 8 d, and the reference's
// weight and result.
inline double SumTolerance(DType dtype, int64_t rows, int64_t n, double magnitude) {
  const auto terms = static_cast<double>(n);
  if (OnTensorCoresExactly(dtype, rows)) {
    return (70 + terms / 128 + 8 + 8 + 5 + 3) * kEps * magnitude + 1e-30;
  }
  const bool tensor_cores = rows > 16 && dtype != DType::kF32;
  const double inputs = tensor_cores ? 2 * kBf16Eps + kBf16Eps * kBf16Eps : 0;
  return ((terms + 2) * kEps + inputs) * magnitude + 1e-30;
}

}  // namespace tailor
