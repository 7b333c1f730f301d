// The GGUF container, and when it parses, the model in it up to a working tokenizer.

#include <sys/mman.h>
#include <unistd.h>

#include "common/model_file/gguf.h"
#include "common/text/chat_template.h"
#include "common/text/tokenizer.h"
#include "common/unique_handle.h"
#include "tests/common/model_file/gguf_bytes.h"
#include "tests/common/model_file/small_llama.h"
#include "tests/fuzz/fuzz_target.h"

namespace tailor {
namespace {

void UseModel(const ModelFile& model) {
  FUZZ_EXPECT(model.hyperparameters().Validate().ok());
  FUZZ_EXPECT(model.Tensor("token_embd.weight").ok());
  const auto tokenizer = Tokenizer::Create(model.tokenizer());
  if (!tokenizer.ok()) return;
  const auto chat = ChatTemplate::Create(model.tokenizer(), **tokenizer);
  if (chat.ok()) (void)chat->UserTurn("the <|im_end|> 42");
}

}  // namespace

std::vector<std::string> Seeds() {
  SmallLlama tiny = MakeSmallLlama();
  std::vector<std::string> seeds = {GgufOf(tiny)};
  tiny.tensors.clear();  // small enough for every byte to be changed
  seeds.push_back(GgufOf(tiny));
  GgufFile file;
  file.keys = {GgufKey("general.alignment", 4, Raw<uint32_t>(64)),
               GgufKey("floats", 9, GgufArray(6, 1, Raw(2.5f))),
               GgufKey("texts", 9, GgufArray(8, 2, GgufString("a") + GgufString(""))),
               GgufKey("flag", 7, Raw<uint8_t>(1)), GgufKey("f64", 12, Raw(0.1))};
  file.tensors = {{.name = "matrix", .dims = {4, 2}, .type = 0, .offset = 0},
                  {.name = "blocks", .dims = {32, 2, 1}, .type = 3, .offset = 64}};
  file.data = std::string(104, 'b');
  file.alignment = 64;
  seeds.push_back(file.Bytes());
  return seeds;
}

}  // namespace tailor

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tailor;
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  const auto gguf = Gguf::Parse(bytes);
  if (!gguf.ok()) {
    FUZZ_EXPECT(!gguf.status().message().empty());
    return 0;
  }
  for (const auto& [name, view] : gguf->tensors()) {
    FUZZ_EXPECT(view.bytes.data() >= bytes.data());
    FUZZ_EXPECT(view.bytes.data() + view.bytes.size() <= bytes.data() + bytes.size());
    FUZZ_EXPECT(*TensorBytes(view.dtype, view.rows, view.cols) ==
                static_cast<int64_t>(view.bytes.size()));
  }
  const UniqueFd fd(::memfd_create("gguf_fuzz", MFD_CLOEXEC));
  FUZZ_EXPECT(fd && ::write(fd.get(), data, size) == static_cast<ssize_t>(size));
  const auto model = ModelFile::Open("/proc/self/fd/" + std::to_string(fd.get()));
  if (model.ok()) UseModel(**model);
  return 0;
}
