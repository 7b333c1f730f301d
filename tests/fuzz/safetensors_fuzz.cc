// The safetensors container.

#include "common/model_file/safetensors.h"
#include "tests/common/model_file/small_llama.h"
#include "tests/fuzz/fuzz_target.h"

namespace tailor {

std::vector<std::string> Seeds() {
  SmallLlama tiny = MakeSmallLlama();
  std::vector<std::string> seeds = {SafetensorsOf(tiny)};
  tiny.tensors = {{"output_norm.weight", {1, 16, std::vector<float>(16)}},
                  {"blk.0.attn_k.weight", {2, 4, std::vector<float>(8)}}};
  seeds.push_back(SafetensorsOf(tiny));
  return seeds;
}

}  // namespace tailor

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tailor;
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  const auto tensors = ParseSafetensors(bytes);
  if (!tensors.ok()) {
    FUZZ_EXPECT(!tensors.status().message().empty());
    return 0;
  }
  for (const auto& [name, view] : *tensors) {
    FUZZ_EXPECT(view.bytes.data() >= bytes.data());
    FUZZ_EXPECT(view.bytes.data() + view.bytes.size() <= bytes.data() + bytes.size());
    FUZZ_EXPECT(*TensorBytes(view.dtype, view.rows, view.cols) ==
                static_cast<int64_t>(view.bytes.size()));
  }
  return 0;
}
