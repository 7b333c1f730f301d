#include "worker/ops/cuda_loader.h"

#include <dlfcn.h>
#include <sched.h>

#include <algorithm>
#include <string>

#include "common/status.h"
#include "worker/ops/cuda/module_abi.h"

namespace tailor {
namespace {

absl::Status Unusable(const std::string& why) {
  return absl::UnavailableError(absl::StrCat("CUDA backend: ", why));
}

std::filesystem::path DefaultModule() {
  std::error_code error;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", error);
  return program.parent_path() / "backend_cuda.so";
}

int UsableCores() {
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof(cores), &cores) != 0) return 1;
  return std::max(1, CPU_COUNT(&cores));
}

absl::Status ToStatus(const CudaModuleError& error) {
  if (error.code == 0) return absl::OkStatus();
  return absl::Status(static_cast<absl::StatusCode>(error.code),
                      absl::StrCat("CUDA backend: ", error.message));
}

}  // namespace

template <typename Fn>
Fn CudaModule::Find(const char* name) const {
  return reinterpret_cast<Fn>(dlsym(handle_, name));
}

absl::StatusOr<CudaModule> CudaModule::Open(const std::filesystem::path& module) {
  const std::filesystem::path path = module.empty() ? DefaultModule() : module;
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    return Unusable(absl::StrCat("there is no ", path.string()));
  }
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (handle == nullptr) return Unusable(dlerror());
  const CudaModule opened(handle);
  for (const char* name : {kCudaModuleVersionName, kCudaModuleProbeName, kCudaModuleCreateName,
                           kCudaModuleDestroyName}) {
    if (dlsym(handle, name) == nullptr) {
      return Unusable(absl::StrCat(path.string(), " has no ", name));
    }
  }
  const uint32_t version = opened.Find<CudaModuleVersionFn>(kCudaModuleVersionName)();
  if (version != kCudaModuleVersion) {
    return Unusable(absl::StrCat(path.string(), " has version ", version, ", this program needs ",
                                 kCudaModuleVersion));
  }
  return opened;
}

absl::Status CudaModule::Probe(int device) const {
  CudaModuleError error;
  Find<CudaModuleProbeFn>(kCudaModuleProbeName)(device, &error);
  return ToStatus(error);
}

absl::StatusOr<std::unique_ptr<Backend>> CudaModule::MakeBackend(
    const CudaBackendOptions& options) const {
  const CudaModuleOptions asked = {
      .device = options.device,
      .host_threads = options.host_threads > 0 ? options.host_threads : UsableCores(),
      .memory_bytes = options.memory_bytes};
  CudaModuleError error;
  Backend* backend = Find<CudaModuleCreateFn>(kCudaModuleCreateName)(&asked, &error);
  if (backend == nullptr) return ToStatus(error);
  // Its destructor is the module's, reached through the vtable: what TailorCudaDestroy calls too.
  return std::unique_ptr<Backend>(backend);
}

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const CudaBackendOptions& options) {
  TS_ASSIGN_OR_RETURN(const CudaModule module, CudaModule::Open(options.module));
  TS_RETURN_IF_ERROR(module.Probe(options.device));
  return module.MakeBackend(options);
}

}  // namespace tailor
