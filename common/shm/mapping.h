// Memory without a name that processes share: a memfd, and one process's view of it. No name means
// that nothing is left behind by a crash and that no client can ask for a segment by name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "common/unique_handle.h"

namespace tailor {

// A memfd of exactly `bytes` bytes, zeroed, sealed against shrinking, growing and further seals: no
// holder can truncate it and raise SIGBUS in the others. Memory is taken when first touched.
// `debug_name` is shown in /proc only. Errors: InvalidArgument (bytes <= 0), ResourceExhausted.
absl::StatusOr<UniqueFd> CreateSealedMemfd(const std::string& debug_name, int64_t bytes);

// The size of a memfd that can never shrink. Errors: FailedPrecondition when it carries no
// F_SEAL_SHRINK: whoever sent it could pull the memory from under us.
absl::StatusOr<int64_t> SealedBytes(int fd);

// One shared, writable mapping. Move-only; unmapped when destroyed.
class Mapping {
 public:
  // Maps bytes [0, bytes) of fd. Errors: ResourceExhausted "mapping of N bytes: ...".
  static absl::StatusOr<Mapping> Map(int fd, int64_t bytes);

  Mapping() = default;
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;
  ~Mapping();

  std::byte* data() const { return bytes_.data(); }
  int64_t size() const { return static_cast<int64_t>(bytes_.size()); }

 private:
  explicit Mapping(std::span<std::byte> bytes) : bytes_(bytes) {}
  std::span<std::byte> bytes_;
};

}  // namespace tailor
