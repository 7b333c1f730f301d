#include "tests/gpu/emulator/fake_matmul.h"

#include <algorithm>

namespace fake_cublaslt {
namespace {

bool Aligned(const void* address, uint64_t bytes) {
  return reinterpret_cast<uintptr_t>(address) % bytes == 0;
}
double Value(uint16_t bits) {
  const uint32_t wide = uint32_t{bits} << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

// Row `row` of op(matrix), or column of it, k values.
std::vector<double> Line(const uint16_t* matrix, const Layout& at, bool along_columns, uint64_t i,
                         uint64_t k) {
  std::vector<double> line(k);
  for (uint64_t p = 0; p < k; ++p) {
    line[p] = Value(along_columns ? matrix[p + i * at.stride] : matrix[i + p * at.stride]);
  }
  return line;
}

}  // namespace

cublasStatus_t Read(cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                    cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d, Problem* out) {
  if (desc == nullptr || a == nullptr || b == nullptr || c == nullptr || d == nullptr) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  Problem p = {Inside<Desc>(desc), Inside<Layout>(a), Inside<Layout>(b), Inside<Layout>(c),
               Inside<Layout>(d)};
  if (p.desc.tag != kDescTag) return CUBLAS_STATUS_INVALID_VALUE;
  for (const Layout& layout : {p.a, p.b, p.c, p.d}) {
    if (layout.tag != kLayoutTag || layout.rows == 0 || layout.cols == 0 ||
        layout.stride < layout.rows) {
      return CUBLAS_STATUS_INVALID_VALUE;
    }
  }
  if (p.a.type != CUDA_R_16BF || p.b.type != CUDA_R_16BF || p.c.type != CUDA_R_32F ||
      p.d.type != CUDA_R_32F || p.desc.compute != CUBLAS_COMPUTE_32F ||
      p.desc.scale != CUDA_R_32F) {
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  const bool ta = p.desc.trans_a == CUBLAS_OP_T, tb = p.desc.trans_b == CUBLAS_OP_T;
  p.k = ta ? p.a.rows : p.a.cols;
  if ((ta ? p.a.cols : p.a.rows) != p.d.rows || (tb ? p.b.rows : p.b.cols) != p.d.cols ||
      (tb ? p.b.cols : p.b.rows) != p.k || p.c.rows != p.d.rows || p.c.cols != p.d.cols) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  // Vector loads of the inputs: a documented need of tensor-core kernels.
  if (p.a.stride % 8 != 0 || p.b.stride % 8 != 0) return CUBLAS_STATUS_NOT_SUPPORTED;
  *out = p;
  return CUBLAS_STATUS_SUCCESS;
}

std::vector<Algorithm> Offered(const Problem& p, const Preference& asked) {
  const uint64_t block = p.d.cols > 256 ? 64 : p.d.cols > 100 ? 32 : 16;
  // Of every row, so the stride counts as well as the address.
  const uint64_t stride_align = p.d.stride % 4 == 0 ? 16 : 4;
  const uint64_t d_align = std::min({asked.align_c, asked.align_d, stride_align});
  const Algorithm known[] = {
      {kAlgorithmTag, 0, 1, CUBLASLT_REDUCTION_SCHEME_NONE, 0, 4},  // cannot run
      {kAlgorithmTag, 8, 4, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, 4096, 4},
      {kAlgorithmTag, 8, 2, CUBLASLT_REDUCTION_SCHEME_NONE, 4096, 4},
      {kAlgorithmTag, 8, 1, CUBLASLT_REDUCTION_SCHEME_NONE, uint64_t{1} << 40, 4},
      {kAlgorithmTag, block, 1, CUBLASLT_REDUCTION_SCHEME_NONE, 4096, 16},
      {kAlgorithmTag, block, 1, CUBLASLT_REDUCTION_SCHEME_NONE, 256, 4},
  };
  std::vector<Algorithm> offered;
  for (const Algorithm& one : known) {
    const bool scheme =
        one.scheme == CUBLASLT_REDUCTION_SCHEME_NONE || (asked.schemes & one.scheme) != 0;
    if (scheme && one.workspace <= asked.workspace && one.align_d <= d_align) {
      offered.push_back(one);
    }
  }
  return offered;
}

bool Runs(const Problem& p, const Algorithm& how, std::initializer_list<const void*> inputs,
          const void* c, const void* d, const void* workspace, size_t workspace_bytes) {
  for (const void* address : inputs) {
    if (!Aligned(address, 16)) return false;
  }
  const bool in_place_differs = c == d && p.c.stride != p.d.stride;
  return Aligned(d, how.align_d) && p.d.stride * sizeof(float) % how.align_d == 0 &&
         Aligned(workspace, 16) && workspace_bytes >= how.workspace && !in_place_differs;
}

void Multiply(const Problem& p, uint64_t block, float alpha, const uint16_t* a, const uint16_t* b,
              float beta, const float* c, float* d) {
  std::vector<std::vector<double>> columns;
  for (uint64_t j = 0; j < p.d.cols; ++j) {
    columns.push_back(Line(b, p.b, p.desc.trans_b == CUBLAS_OP_N, j, p.k));
  }
  for (uint64_t i = 0; i < p.d.rows; ++i) {
    const std::vector<double> row = Line(a, p.a, p.desc.trans_a == CUBLAS_OP_T, i, p.k);
    for (uint64_t j = 0; j < p.d.cols; ++j) {
      float sum = 0;
      for (uint64_t first = 0; first < p.k; first += block) {
        double part = 0;
        const uint64_t end = std::min(first + block, p.k);
        for (uint64_t q = first; q < end; ++q) part += row[q] * columns[j][q];
        sum += static_cast<float>(part);
      }
      float value = alpha * sum;
      if (beta != 0) value += beta * c[i + j * p.c.stride];
      d[i + j * p.d.stride] = value;
    }
  }
}

}  // namespace fake_cublaslt
