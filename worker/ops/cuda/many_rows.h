// Products of many rows: by cuBLASLt where it is there (blas_lt.h), else by gemm.cu. Both round
// inputs and weights to bf16 and add in fp32.
//
// The library multiplies bf16 alone, so inputs are rounded into memory taken at start, blocks of
// rows at a time, and weights of other formats are expanded into it, slabs of outputs at a time.
// All of it is a small share of the pool, so that no product fails for want of memory.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "worker/ops/cuda/blas_lt.h"
#include "worker/ops/cuda/cuda_context.h"

namespace tailor::cuda {

class ManyRows {
 public:
  // `library`: the file to open; empty: CublasLtApi::LibraryName() where the system or the toolkit
  // keep it; "off": none. Logs what it multiplies by, and why when that is not cuBLASLt.
  ManyRows(CudaContext* context, const std::string& library);

  // out = x w^T, or out += x w^T, for each job; x as LaunchLinear wants it, weights not F32. When
  // the library fails, this product and all later ones are gemm.cu's, and the log says so.
  void Run(Rows<const float> x, std::span<const LinearJob> jobs, Epilogue epilogue);

 private:
  absl::Status Open(const std::string& library);
  void RunBlock(Rows<const float> x, const LinearJob& job, Epilogue epilogue);
  absl::Status Multiply(Rows<const float> x, const LinearJob& job, Epilogue epilogue);
  // x as bf16, and `w` as it lies or expanded.
  void Round(Rows<const float> x);
  Rows<const uint16_t> Weights(const WeightRef& w);

  CudaContext* context_;
  std::span<std::byte> inputs_, weights_;
  std::unique_ptr<BlasLt> blas_;  // null: gemm.cu
  bool said_unsupported_ = false;
};

}  // namespace tailor::cuda
