// SHA-256: the identity of weights, policies and prefixes. Never a mere hash table hash: two things
// with one fingerprint are taken for the same thing across tenants and processes.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace tailor {

struct Fingerprint {
  std::array<uint8_t, 32> bytes{};
  friend auto operator<=>(const Fingerprint&, const Fingerprint&) = default;
  std::string ToHex() const;
  static absl::StatusOr<Fingerprint> FromHex(std::string_view hex);
};

struct FingerprintHash {
  size_t operator()(const Fingerprint& f) const;
};

// Streams bytes into one SHA-256. Strings are hashed with their length before them, so that two
// fields never run into each other.
class Fingerprinter {
 public:
  Fingerprinter();
  ~Fingerprinter();
  Fingerprinter(const Fingerprinter&) = delete;
  Fingerprinter& operator=(const Fingerprinter&) = delete;

  Fingerprinter& AddBytes(std::span<const std::byte> bytes);
  Fingerprinter& AddString(std::string_view text);
  Fingerprinter& AddInt(int64_t value);
  Fingerprint Finish();  // once

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

}  // namespace tailor
