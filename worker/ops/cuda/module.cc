// backend_cuda.so's four exports (worker/ops/cuda/module_abi.h).
#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "common/status.h"
#include "worker/ops/cuda/cuda_backend.h"

namespace tailor::cuda {
namespace {

constexpr int kLeastMajor = 8;  // compute capability of the oldest kernels we build

void Report(const absl::Status& status, CudaModuleError* error) {
  error->code = static_cast<int32_t>(status.code());
  const size_t count = std::min(status.message().size(), sizeof(error->message) - 1);
  std::memcpy(error->message, status.message().data(), count);
  error->message[count] = '\0';
}

absl::Status Probe(int32_t device) {
  int count = 0;  // left untouched by a failing call
  TS_RETURN_IF_ERROR(CudaStatus(cudaGetDeviceCount(&count), "cudaGetDeviceCount"));
  if (device < 0 || device >= count) {
    return absl::UnavailableError(absl::StrCat("device is ", device, ", this machine has ", count));
  }
  int major = 0, minor = 0;
  TS_RETURN_IF_ERROR(
      CudaStatus(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
                 "cudaDeviceGetAttribute"));
  TS_RETURN_IF_ERROR(
      CudaStatus(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device),
                 "cudaDeviceGetAttribute"));
  if (major < kLeastMajor) {
    return absl::UnavailableError(absl::StrCat("device ", device, " has compute capability ", major,
                                               ".", minor, ", needed is ", kLeastMajor, ".0"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<CudaBackend>> Create(const CudaModuleOptions& options) {
  TS_RETURN_IF_ERROR(Probe(options.device));
  TS_ASSIGN_OR_RETURN(auto context, CudaContext::Make(options));
  TS_ASSIGN_OR_RETURN(CudaCopies copies, CudaCopies::Make(context.get()));
  const char* blas_library = std::getenv(kBlasLibraryVariable);
  return std::make_unique<CudaBackend>(std::move(context), std::move(copies),
                                       std::max(1, options.host_threads),
                                       blas_library != nullptr ? blas_library : "");
}

}  // namespace
}  // namespace tailor::cuda

#define TAILOR_EXPORT extern "C" __attribute__((visibility("default")))

TAILOR_EXPORT uint32_t TailorCudaVersion() { return tailor::kCudaModuleVersion; }

TAILOR_EXPORT void TailorCudaProbe(int32_t device, tailor::CudaModuleError* error) {
  tailor::cuda::Report(tailor::cuda::Probe(device), error);
}

TAILOR_EXPORT tailor::Backend* TailorCudaCreate(const tailor::CudaModuleOptions* options,
                                                tailor::CudaModuleError* error) {
  auto backend = tailor::cuda::Create(*options);
  tailor::cuda::Report(backend.status(), error);
  return backend.ok() ? backend->release() : nullptr;
}

TAILOR_EXPORT void TailorCudaDestroy(tailor::Backend* backend) { delete backend; }
