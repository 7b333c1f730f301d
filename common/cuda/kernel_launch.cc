#include "common/cuda/kernel_launch.h"

#include <array>

#include "common/status.h"

namespace tailor {

cudaError_t EnqueueLaunch(const Launch& launch, LaunchArguments arguments, cudaStream_t stream) {
  std::array<void*, 32> pointers;  // no kernel of ours has as many parameters
  TS_CHECK(arguments.size() <= pointers.size());
  for (size_t i = 0; i < arguments.size(); ++i) {
    pointers[i] = const_cast<std::byte*>(arguments[i].data());  // the runtime reads them only
  }
  return cudaLaunchKernel(launch.kernel, dim3(launch.grid.x, launch.grid.y, launch.grid.z),
                          dim3(launch.threads.x, launch.threads.y, launch.threads.z),
                          pointers.data(), launch.shared_bytes, stream);
}

}  // namespace tailor
