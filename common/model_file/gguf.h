// The GGUF container, versions 2 and 3, little-endian: typed metadata and a directory of tensors.
// Source: github.com/ggml-org/ggml, docs/gguf.md. Knows nothing of architectures.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model_file/model_file.h"

namespace tailor {

// Integers of every width become int64 (a u64 beyond 2^63 is refused), both floats double. Strings
// point into the file.
using GgufValue = std::variant<int64_t, double, bool, std::string_view, std::vector<int64_t>,
                               std::vector<double>, std::vector<std::string_view>>;

class Gguf {
 public:
  // `file` must outlive the object. Errors: InvalidArgument (broken bytes: names the field, its
  // value and the limit), Unimplemented (other versions, big-endian, nested arrays, a tensor type
  // this build cannot read: names both).
  static absl::StatusOr<Gguf> Parse(std::span<const std::byte> file);

  // Errors: NotFound when the key is absent, InvalidArgument when its type is another.
  template <typename T>
  absl::StatusOr<T> Get(std::string_view key) const;
  // Nothing when the key is absent or null. Errors: InvalidArgument when its type is another.
  template <typename T>
  absl::StatusOr<T> GetOr(std::string_view key, T fallback) const;
  bool Has(std::string_view key) const { return metadata_.contains(key); }

  // By name. Every view lies inside the file and has the alignment general.alignment promises.
  const std::map<std::string, TensorView, std::less<>>& tensors() const { return tensors_; }

 private:
  std::map<std::string_view, GgufValue> metadata_;
  std::map<std::string, TensorView, std::less<>> tensors_;
};

extern template absl::StatusOr<int64_t> Gguf::Get(std::string_view) const;
extern template absl::StatusOr<double> Gguf::Get(std::string_view) const;
extern template absl::StatusOr<bool> Gguf::Get(std::string_view) const;
extern template absl::StatusOr<std::string_view> Gguf::Get(std::string_view) const;
extern template absl::StatusOr<std::vector<int64_t>> Gguf::Get(std::string_view) const;
extern template absl::StatusOr<std::vector<double>> Gguf::Get(std::string_view) const;
extern template absl::StatusOr<std::vector<std::string_view>> Gguf::Get(std::string_view) const;

template <typename T>
absl::StatusOr<T> Gguf::GetOr(std::string_view key, T fallback) const {
  if (!Has(key)) return fallback;
  return Get<T>(key);
}

}  // namespace tailor
