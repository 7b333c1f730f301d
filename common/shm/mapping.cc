#include "common/shm/mapping.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "common/log.h"
#include "common/status.h"

namespace tailor {

absl::StatusOr<UniqueFd> CreateSealedMemfd(const std::string& debug_name, int64_t bytes) {
  if (bytes <= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("shared memory of ", bytes, " bytes asked, at least 1 needed"));
  }
  UniqueFd fd(::memfd_create(debug_name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd || ::ftruncate(fd.get(), bytes) != 0 ||
      ::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return absl::ResourceExhaustedError(
        absl::StrCat("shared memory of ", bytes, " bytes: ", std::strerror(errno)));
  }
  return fd;
}

absl::StatusOr<int64_t> SealedBytes(int fd) {
  const int seals = ::fcntl(fd, F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) {
    return absl::FailedPreconditionError("received memory is not sealed against shrinking");
  }
  struct stat info;
  if (::fstat(fd, &info) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("received memory has no size: ", std::strerror(errno)));
  }
  return static_cast<int64_t>(info.st_size);
}

absl::StatusOr<Mapping> Mapping::Map(int fd, int64_t bytes) {
  void* const base =
      ::mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (base == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("mapping of ", bytes, " bytes: ", std::strerror(errno)));
  }
  return Mapping({static_cast<std::byte*>(base), static_cast<size_t>(bytes)});
}

Mapping::Mapping(Mapping&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  return *this;
}

Mapping::~Mapping() {
  if (bytes_.data() != nullptr && ::munmap(bytes_.data(), bytes_.size()) != 0) {
    spdlog::error("munmap of {} bytes: {}", bytes_.size(), std::strerror(errno));
  }
}

}  // namespace tailor
