// What fake_cublaslt.cc's algorithms are and compute.
#pragma once

#include <cublasLt.h>

#include <cstring>
#include <initializer_list>
#include <vector>

namespace fake_cublaslt {

inline constexpr uint64_t kHandleTag = 0x746c6268, kDescTag = 0x746c6264, kLayoutTag = 0x746c626c,
                          kPreferenceTag = 0x746c6270, kAlgorithmTag = 0x746c6261;

// The structures behind the header's opaque ones.
struct Desc {
  uint64_t tag, compute, scale, trans_a, trans_b;
};
struct Layout {
  uint64_t tag, type, rows, cols, stride;
};
struct Preference {
  uint64_t tag, workspace, schemes, align_a, align_b, align_c, align_d;
};
struct Algorithm {
  uint64_t tag, block, splits, scheme, workspace, align_d;
};
// Between those and the opaque ones.
template <typename T, typename Opaque>
T Inside(const Opaque* opaque) {
  static_assert(sizeof(T) <= sizeof(Opaque));
  T value;
  std::memcpy(&value, opaque, sizeof(value));
  return value;
}
template <typename Opaque, typename T>
Opaque Outside(const T& value) {
  Opaque opaque = {};
  std::memcpy(&opaque, &value, sizeof(value));
  return opaque;
}
// One product, its descriptors read.
struct Problem {
  Desc desc;
  Layout a, b, c, d;
  uint64_t k = 0;
};

// Errors: as cublasLtMatmul's for what is no product, or not one of bf16 with sums in fp32.
cublasStatus_t Read(cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                    cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d, Problem* out);
// Of all algorithms, those within the preferences: best first, which is not best for the caller: a
// split of K, one that needs more workspace than any limit, one that cannot run, and for other
// numbers of rows a kernel with another order of sums.
std::vector<Algorithm> Offered(const Problem& p, const Preference& asked);
// Whether the algorithm can run this call.
bool Runs(const Problem& p, const Algorithm& how, std::initializer_list<const void*> inputs,
          const void* c, const void* d, const void* workspace, size_t workspace_bytes);
// d = alpha op(a) op(b) + beta c, column-major: sums in fp64 within a block of K, in fp32 across
// blocks. With beta = 0, c is not read.
void Multiply(const Problem& p, uint64_t block, float alpha, const uint16_t* a, const uint16_t* b,
              float beta, const float* c, float* d);

}  // namespace fake_cublaslt
