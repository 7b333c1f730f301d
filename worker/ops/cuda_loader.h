// Opens the CUDA backend, a shared object of its own, when there is one and a device answers. Knows
// no CUDA header: a program that uses it builds and starts without toolkit, driver or GPU.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include "absl/status/statusor.h"
#include "worker/ops/backend.h"

namespace tailor {

struct CudaBackendOptions {
  int device = 0;
  int64_t memory_bytes =
      0;  // the device memory this process may use, taken at once; 0: 90 % of the free
  int host_threads = 0;          // of RunOnHost; 0: one per core
  std::filesystem::path module;  // empty: backend_cuda.so beside this program
};

// The opened module. It stays in the process for good: what it made has code in it.
class CudaModule {
 public:
  // Errors: Unavailable "CUDA backend: <why>" without a usable module.
  static absl::StatusOr<CudaModule> Open(const std::filesystem::path& module = {});

  // Ok when `device` can run our kernels. Errors: Unavailable with the driver's reason.
  absl::Status Probe(int device) const;
  // Errors: Unavailable (no such device), ResourceExhausted (the memory asked for is not free).
  absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(const CudaBackendOptions& options) const;

 private:
  explicit CudaModule(void* handle) : handle_(handle) {}
  template <typename Fn>
  Fn Find(const char* name) const;
  void* handle_;
};

// Open, Probe and MakeBackend in one.
absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const CudaBackendOptions& options);

}  // namespace tailor
