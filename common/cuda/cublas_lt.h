// cuBLASLt's calls, taken from the library at run time: it is half a gigabyte that not every
// machine has, so nothing links it. Types are those that cublasLt.h declares.
#pragma once

#include <cublasLt.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace tailor {

#define TAILOR_CUBLASLT_CALLS(X)                                                               \
  X(Create)                                                                                    \
  X(Destroy)                                                                                   \
  X(GetVersion) X(GetStatusName) X(MatmulDescCreate) X(MatmulDescDestroy)                      \
      X(MatmulDescSetAttribute) X(MatrixLayoutCreate) X(MatrixLayoutDestroy)                   \
          X(MatmulPreferenceCreate) X(MatmulPreferenceDestroy) X(MatmulPreferenceSetAttribute) \
              X(MatmulAlgoGetHeuristic) X(MatmulAlgoCheck) X(MatmulAlgoConfigGetAttribute)     \
                  X(Matmul)

struct CublasLtApi {
#define TAILOR_POINTER(name) decltype(&cublasLt##name) name = nullptr;
  TAILOR_CUBLASLT_CALLS(TAILOR_POINTER)
#undef TAILOR_POINTER

  // The version whose header we were built with has the same: another may lay out its structures
  // differently.
  static constexpr int kMajor = CUBLAS_VER_MAJOR;
  // The name of that version's library.
  static std::string LibraryName();

  // Opens `file`, which stays in the process for good. Errors: Unavailable "<why>": there is no
  // such library, it lacks a call, or it is of another major version.
  static absl::StatusOr<CublasLtApi> Load(const std::string& file);

  // Ok, or "<call>: <status's name> (status N)": Unimplemented for what the library does not
  // support, Internal otherwise.
  absl::Status ToStatus(cublasStatus_t status, const char* call) const;
};

// Owners, each closed by the library that made it.
using CublasLtHandle = std::unique_ptr<cublasLtContext, decltype(&cublasLtDestroy)>;
using CublasLtMatmulDesc =
    std::unique_ptr<cublasLtMatmulDescOpaque_t, decltype(&cublasLtMatmulDescDestroy)>;
using CublasLtLayout =
    std::unique_ptr<cublasLtMatrixLayoutOpaque_t, decltype(&cublasLtMatrixLayoutDestroy)>;
using CublasLtPreference =
    std::unique_ptr<cublasLtMatmulPreferenceOpaque_t, decltype(&cublasLtMatmulPreferenceDestroy)>;

absl::StatusOr<CublasLtHandle> MakeHandle(const CublasLtApi& api);
// Products of bf16 with sums, scale and result in fp32.
absl::StatusOr<CublasLtMatmulDesc> MakeMatmulDesc(const CublasLtApi& api);
// Column-major.
absl::StatusOr<CublasLtLayout> MakeLayout(const CublasLtApi& api, cudaDataType type, int64_t rows,
                                          int64_t cols, int64_t stride);
absl::StatusOr<CublasLtPreference> MakePreference(const CublasLtApi& api);

}  // namespace tailor
