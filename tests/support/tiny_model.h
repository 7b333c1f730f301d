// A model of random weights in a real GGUF file: small enough for sanitizers, real enough to go
// through every parser, kernel and process. Its tokenizer knows single bytes and a few merges, its
// template is ChatML.
#pragma once

#include <cstdint>
#include <filesystem>

#include "common/model_file/model_family.h"

namespace tailor {

struct TinyModelOptions {
  const ModelFamily* family = &kModelFamilies[0];  // Llama
  int32_t layers = 4;
  int32_t hidden = 256;
  int32_t q_heads = 4;
  int32_t kv_heads = 2;     // head_dim is hidden / q_heads = 64
  int32_t ffn_hidden = 320;
  int64_t context_tokens = 4096;
  uint64_t seed = 1;
  // Of the embedding, which is the output head too: at 1 the last token is all but certain to come
  // again; at 0.1 it is anybody's guess.
  float embedding_scale = 1.0f;
};

inline constexpr int32_t kTinyVocab = 272;  // 16 control tokens, then the 256 bytes

// Writes the file; aborts on I/O failure (a test's environment is broken then).
void WriteTinyModel(const std::filesystem::path& path, const TinyModelOptions& options = {});

// A folder of this test program, removed when the object goes.
class ScratchDir {
 public:
  ScratchDir();
  ~ScratchDir();
  ScratchDir(const ScratchDir&) = delete;
  ScratchDir& operator=(const ScratchDir&) = delete;
  std::filesystem::path operator/(const char* name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace tailor
