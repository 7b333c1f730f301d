// A GGUF file, field by field, as right or as wrong as a test wants it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace tailor {

template <typename T>
std::string Raw(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

inline std::string GgufString(const std::string& text) { return Raw<uint64_t>(text.size()) + text; }

// Types by the format's numbers: 4 u32, 5 i32, 6 f32, 7 bool, 8 string, 9 array, 10 u64, 12 f64.
inline std::string GgufKey(const std::string& name, uint32_t type, const std::string& value) {
  return GgufString(name) + Raw(type) + value;
}
inline std::string GgufArray(uint32_t type, uint64_t count, const std::string& elements) {
  return Raw(type) + Raw(count) + elements;
}

struct GgufFile {
  struct Tensor {
    std::string name;
    std::vector<uint64_t> dims;  // columns first
    uint32_t type = 0;           // F32
    uint64_t offset = 0;
  };

  uint32_t magic = 0x46554747;  // "GGUF"
  uint32_t version = 3;
  std::optional<uint64_t> tensor_count = {}, key_count = {};  // instead of the truth
  std::vector<std::string> keys = {};
  std::vector<Tensor> tensors = {};
  std::string data = {};
  size_t alignment = 32;  // of the data; the key general.alignment is the test's to add

  std::string Bytes() const {
    std::string out = Raw(magic) + Raw(version) +
                      Raw<uint64_t>(tensor_count.value_or(tensors.size())) +
                      Raw<uint64_t>(key_count.value_or(keys.size()));
    for (const std::string& key : keys) out += key;
    for (const Tensor& tensor : tensors) {
      out += GgufString(tensor.name) + Raw(static_cast<uint32_t>(tensor.dims.size()));
      for (const uint64_t extent : tensor.dims) out += Raw(extent);
      out += Raw(tensor.type) + Raw(tensor.offset);
    }
    if (!tensors.empty()) out.resize((out.size() + alignment - 1) / alignment * alignment);
    return out + data;
  }
};

}  // namespace tailor
