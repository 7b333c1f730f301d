#include "common/cuda/cublas_lt.h"

#include <dlfcn.h>

#include "common/status.h"

namespace tailor {

std::string CublasLtApi::LibraryName() { return absl::StrCat("libcublasLt.so.", kMajor); }

absl::StatusOr<CublasLtApi> CublasLtApi::Load(const std::string& file) {
  void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (library == nullptr) return absl::UnavailableError(dlerror());
  CublasLtApi api;
#define TAILOR_FIND(name)                                                            \
  api.name = reinterpret_cast<decltype(api.name)>(dlsym(library, "cublasLt" #name)); \
  if (api.name == nullptr) {                                                         \
    return absl::UnavailableError(absl::StrCat(file, " has no cublasLt" #name));     \
  }
  TAILOR_CUBLASLT_CALLS(TAILOR_FIND)
#undef TAILOR_FIND
  const size_t version = api.GetVersion();
  if (version / 10000 != kMajor) {
    return absl::UnavailableError(
        absl::StrCat(file, " has version ", version, ", needed is major version ", kMajor));
  }
  return api;
}

absl::Status CublasLtApi::ToStatus(cublasStatus_t status, const char* call) const {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return absl::Status(
      status == CUBLAS_STATUS_NOT_SUPPORTED ? absl::StatusCode::kUnimplemented
                                            : absl::StatusCode::kInternal,
      absl::StrCat(call, ": ", GetStatusName(status), " (status ", static_cast<int>(status), ")"));
}

absl::StatusOr<CublasLtHandle> MakeHandle(const CublasLtApi& api) {
  cublasLtHandle_t raw = nullptr;
  TS_RETURN_IF_ERROR(api.ToStatus(api.Create(&raw), "cublasLtCreate"));
  return CublasLtHandle(raw, api.Destroy);
}

absl::StatusOr<CublasLtMatmulDesc> MakeMatmulDesc(const CublasLtApi& api) {
  cublasLtMatmulDesc_t raw = nullptr;
  TS_RETURN_IF_ERROR(api.ToStatus(api.MatmulDescCreate(&raw, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                                  "cublasLtMatmulDescCreate"));
  return CublasLtMatmulDesc(raw, api.MatmulDescDestroy);
}

absl::StatusOr<CublasLtLayout> MakeLayout(const CublasLtApi& api, cudaDataType type, int64_t rows,
                                          int64_t cols, int64_t stride) {
  cublasLtMatrixLayout_t raw = nullptr;
  TS_RETURN_IF_ERROR(api.ToStatus(api.MatrixLayoutCreate(&raw, type, static_cast<uint64_t>(rows),
                                                         static_cast<uint64_t>(cols), stride),
                                  "cublasLtMatrixLayoutCreate"));
  return CublasLtLayout(raw, api.MatrixLayoutDestroy);
}

absl::StatusOr<CublasLtPreference> MakePreference(const CublasLtApi& api) {
  cublasLtMatmulPreference_t raw = nullptr;
  TS_RETURN_IF_ERROR(
      api.ToStatus(api.MatmulPreferenceCreate(&raw), "cublasLtMatmulPreferenceCreate"));
  return CublasLtPreference(raw, api.MatmulPreferenceDestroy);
}

}  // namespace tailor
