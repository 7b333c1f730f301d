// START HERE: one opened model: hyperparameters, tokenizer data and tensors, memory-mapped and
// checked. The bytes are untrusted: every length and offset is checked against the file before use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "common/fingerprint.h"
#include "common/model_file/dtype.h"
#include "common/model_file/hyperparameters.h"
#include "common/model_file/tokenizer_spec.h"

namespace tailor {

// A weight where its file is mapped: row-major [rows][cols] without padding; a vector has rows = 1.
// `bytes` is aligned to 4 (plain formats: to their element), and valid while the ModelFile lives.
struct TensorView {
  std::string_view name = {};  // canonical
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  std::span<const std::byte> bytes = {};
};

// Immutable after Open; thread-safe. The files are mapped read-only and must not be truncated while
// the object lives (the kernel would raise SIGBUS).
class ModelFile {
 public:
  // A .gguf file, or a Hugging Face directory: config.json, *.safetensors (one file, or shards
  // behind model.safetensors.index.json), tokenizer.json and, when there, tokenizer_config.json,
  // generation_config.json and chat_template.jinja.
  // Errors: NotFound          the path, or a file or tensor the model needs
  //         InvalidArgument   broken bytes, or a tensor of the wrong shape; names thing, value,
  //         limit Unimplemented     a format, architecture, dtype or tokenizer this build cannot
  //         run, by name
  static absl::StatusOr<std::unique_ptr<ModelFile>> Open(const std::filesystem::path& path);

  ~ModelFile();
  ModelFile(const ModelFile&) = delete;
  ModelFile& operator=(const ModelFile&) = delete;

  const LlamaHyperparameters& hyperparameters() const;
  const TokenizerSpec& tokenizer() const;
  const std::string& name() const;

  // Canonical names are GGUF's: token_embd.weight, output_norm.weight, output.weight (absent when
  // the embedding is tied), and blk.N. attn_norm, attn_q, attn_k, attn_v, attn_output, ffn_norm,
  // ffn_gate, ffn_up, ffn_down .weight; with qkv_bias also attn_q, attn_k, attn_v .bias. Open has
  // checked that all are there, with the shapes the hyperparameters imply. Errors: NotFound naming
  // the tensor.
  absl::StatusOr<TensorView> Tensor(std::string_view canonical_name) const;

  // The weights' identity: SHA-256 over the hyperparameters, the tensor directory sorted by name
  // (names, dtypes, shapes), and of each tensor the first, middle and last 4 KiB: a 16 GB file
  // opens without being read. Two files that differ only between those samples are taken for the
  // same.
  const Fingerprint& fingerprint() const;

  int64_t weight_bytes() const;  // of all tensors, as stored

 private:
  struct Impl;
  explicit ModelFile(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tailor
