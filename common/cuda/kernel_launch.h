// The one way kernels are launched: at once, or into what records a step.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <tuple>
#include <type_traits>

#include "common/cuda/stream_ref.h"

namespace tailor {

cudaError_t EnqueueLaunch(const Launch& launch, LaunchArguments arguments, cudaStream_t stream);

// As kernel<<<grid, threads, shared_bytes, stream>>>(args...); a failure shows in cudaGetLastError.
template <typename... Params, typename... Args>
void LaunchKernel(void (*kernel)(Params...), dim3 grid, dim3 threads, size_t shared_bytes,
                  CudaStreamRef stream, const Args&... args) {
  static_assert((std::is_trivially_copyable_v<Params> && ...));
  const std::tuple<Params...> values(args...);
  using Bytes = std::span<const std::byte>;
  const std::array<Bytes, sizeof...(Params)> arguments = std::apply(
      [](const Params&... value) {
        return std::array<Bytes, sizeof...(Params)>{Bytes(std::as_bytes(std::span(&value, 1)))...};
      },
      values);
  const Launch launch = {.kernel = reinterpret_cast<const void*>(kernel),
                         .grid = {grid.x, grid.y, grid.z},
                         .threads = {threads.x, threads.y, threads.z},
                         .shared_bytes = static_cast<uint32_t>(shared_bytes)};
  if (stream.sink() != nullptr) return stream.sink()->Add(launch, arguments);
  (void)EnqueueLaunch(launch, arguments, stream.Direct());
}

}  // namespace tailor
