// A kernel's launch as data, and who may take it in a stream's place. Knows nothing of CUDA.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace tailor {

struct LaunchSize {
  uint32_t x = 1, y = 1, z = 1;
  friend bool operator==(const LaunchSize&, const LaunchSize&) = default;
};

struct Launch {
  const void* kernel = nullptr;  // the host's function of that name, as the runtime knows it
  LaunchSize grid, threads;
  uint32_t shared_bytes = 0;
};

// The bytes of each parameter, in order.
using LaunchArguments = std::span<const std::span<const std::byte>>;

class LaunchSink {
 public:
  virtual ~LaunchSink() = default;
  // Copies the arguments.
  virtual void Add(const Launch& launch, LaunchArguments arguments) = 0;
  // Enqueues what was added, in order; launches from now on go to the stream at once.
  virtual void Flush() = 0;
};

}  // namespace tailor
