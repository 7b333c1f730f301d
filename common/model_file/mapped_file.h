// A regular file, mapped read-only.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

#include "absl/status/statusor.h"

namespace tailor {

// Move-only; unmapped when destroyed.
class MappedFile {
 public:
  // Errors: NotFound, PermissionDenied, InvalidArgument (not a regular file, or empty).
  static absl::StatusOr<MappedFile> Map(const std::filesystem::path& path);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  explicit MappedFile(std::span<const std::byte> bytes) : bytes_(bytes) {}
  std::span<const std::byte> bytes_;
};

// The whole of a small text file. Errors: as Map, and InvalidArgument beyond max_bytes.
absl::StatusOr<std::string> ReadTextFile(const std::filesystem::path& path, uint64_t max_bytes);

}  // namespace tailor
