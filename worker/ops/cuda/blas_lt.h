// Products of bf16 matrices by cuBLASLt: which algorithm, and the call. The caller rounds, expands
// and owns all memory (many_rows.h).
//
// One algorithm serves a shape of weights whatever the number of rows, and none that parts a sum
// over K among blocks is taken. NVIDIA promises the same bits only for the same call on the same
// version, architecture and number of multiprocessors; that a row keeps its bits beside any number
// of others follows where the algorithm's kernel adds a sum in one order, which only a device shows
// (tests/gpu/blas_gpu_test.cc prints it). Nothing may rely on it.
#pragma once

#include <compare>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "common/cuda/cublas_lt.h"
#include "worker/ops/cuda/kernels.h"

namespace tailor::cuda {

class BlasLt {
 public:
  // `files` are tried in order. `workspace` is the library's while this lives. Errors: Unavailable
  // with each file's reason.
  static absl::StatusOr<std::unique_ptr<BlasLt>> Open(std::span<const std::string> files,
                                                      std::span<std::byte> workspace);

  // out = x w^T, or out += x w^T, with sums in fp32. x and w are bf16: rows of x.cols values, both
  // at addresses and with strides of a multiple of 16 bytes.
  struct Product {
    Rows<const uint16_t> x, w;
    Rows<float> out;
    Epilogue epilogue = Epilogue::kStore;
  };
  // Errors: Unimplemented when the library has no algorithm for this shape, Internal otherwise;
  // nothing was enqueued then.
  absl::Status Multiply(const Product& product, CudaStreamRef stream);

  const std::string& description() const { return description_; }  // "cuBLASLt <version> (<file>)"

 private:
  // What an algorithm depends on. k is x's columns; rows without number is the plan's of all.
  struct Shape {
    int32_t rows = 0, outputs = 0, k = 0;
    int64_t x_stride = 0, w_stride = 0, out_stride = 0;
    uint32_t out_alignment = 0;  // bytes, at most kAlignment
    auto operator<=>(const Shape&) const = default;
  };
  struct Plan {
    CublasLtLayout x, w, out;
    cublasLtMatmulAlgo_t algorithm;
  };

  BlasLt(CublasLtApi api, CublasLtHandle handle, CublasLtMatmulDesc desc,
         CublasLtPreference preference, std::span<std::byte> workspace, std::string description);
  static absl::StatusOr<std::unique_ptr<BlasLt>> Make(const std::string& file,
                                                      std::span<std::byte> workspace);
  template <typename T>
  absl::Status Describe(cublasLtMatmulDescAttributes_t attribute, T value);
  template <typename T>
  absl::Status Prefer(cublasLtMatmulPreferenceAttributes_t attribute, T value);

  const absl::StatusOr<Plan>& PlanFor(const Shape& shape);
  absl::StatusOr<Plan> MakePlan(const Shape& shape);
  absl::StatusOr<cublasLtMatmulAlgo_t> Choose(const Shape& shape, const Plan& plan);
  bool AddsInOnePlace(const cublasLtMatmulAlgo_t& algorithm) const;
  bool Fits(const Plan& plan, const cublasLtMatmulAlgo_t& algorithm) const;

  const CublasLtApi api_;
  CublasLtHandle handle_;
  CublasLtMatmulDesc desc_;
  CublasLtPreference preference_;
  const std::span<std::byte> workspace_;
  const std::string description_;
  // One entry for each number of rows that was seen: at most a chunk's tokens times a model's
  // shapes. A shape the library cannot serve keeps its error.
  std::map<Shape, absl::StatusOr<Plan>> plans_;
};

}  // namespace tailor::cuda
