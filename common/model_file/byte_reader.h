// Reads untrusted bytes front to back. Nothing is read, skipped or allocated before its length has
// been compared with what is left.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#include "common/status.h"

namespace tailor {

class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  uint64_t offset() const { return offset_; }
  uint64_t remaining() const { return bytes_.size() - offset_; }

  // Little-endian, unaligned. Errors: InvalidArgument naming `what`, the offset and what is left.
  template <typename T>
  absl::StatusOr<T> Read(std::string_view what) {
    TS_RETURN_IF_ERROR(Need(sizeof(T), what));
    T value;
    std::memcpy(&value, bytes_.data() + offset_, sizeof(T));
    offset_ += sizeof(T);
    return value;
  }

  absl::StatusOr<std::span<const std::byte>> ReadBytes(uint64_t count, std::string_view what) {
    TS_RETURN_IF_ERROR(Need(count, what));
    const auto bytes = bytes_.subspan(offset_, count);
    offset_ += count;
    return bytes;
  }

  // A u64 length, then that many bytes; refused beyond `max_bytes`.
  absl::StatusOr<std::string_view> ReadString(uint64_t max_bytes, std::string_view what) {
    TS_ASSIGN_OR_RETURN(const uint64_t length, Read<uint64_t>(what));
    if (length > max_bytes) {
      return absl::InvalidArgumentError(
          absl::StrCat(std::string(what), " is ", length, " bytes long, limit ", max_bytes));
    }
    TS_ASSIGN_OR_RETURN(const auto bytes, ReadBytes(length, what));
    return std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }

 private:
  absl::Status Need(uint64_t count, std::string_view what) const {
    if (count <= remaining()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(std::string(what), " needs ", count,
                                                   " bytes at offset ", offset_, ", the file has ",
                                                   remaining(), " left"));
  }

  std::span<const std::byte> bytes_;
  uint64_t offset_ = 0;
};

}  // namespace tailor
