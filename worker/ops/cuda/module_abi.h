// What backend_cuda.so exports: four C functions, found by name. The objects behind the pointers
// are C++ and shared with the program that opens the module, so both come from one build: the
// version changes with backend.h as well as with this file.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tailor {

class Backend;

inline constexpr uint32_t kCudaModuleVersion = 6;

struct CudaModuleOptions {
  int32_t device = 0;
  int32_t host_threads = 1;
  int64_t memory_bytes = 0;  // the pool, taken at once; 0: nine tenths of what is free
};

// The environment variable that names the file of cuBLASLt to open, or "off" for none; without it
// the usual places are tried (many_rows.h).
inline constexpr char kBlasLibraryVariable[] = "TAILOR_CUBLASLT";

// Text that goes back to the caller, always terminated.
struct CudaModuleError {
  int32_t code = 0;  // absl::StatusCode; 0: none
  char message[508] = {};
};

using CudaModuleVersionFn = uint32_t (*)();
// Whether `device` can run our kernels; error->message says why not.
using CudaModuleProbeFn = void (*)(int32_t device, CudaModuleError* error);
// A backend, or null and the error. It ends by TailorCudaDestroy.
using CudaModuleCreateFn = Backend* (*)(const CudaModuleOptions* options, CudaModuleError* error);
using CudaModuleDestroyFn = void (*)(Backend* backend);

inline constexpr char kCudaModuleVersionName[] = "TailorCudaVersion";
inline constexpr char kCudaModuleProbeName[] = "TailorCudaProbe";
inline constexpr char kCudaModuleCreateName[] = "TailorCudaCreate";
inline constexpr char kCudaModuleDestroyName[] = "TailorCudaDestroy";

}  // namespace tailor
