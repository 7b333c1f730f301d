// What a file format hands to ModelFile, and how formats are found. To add one: write its file with
// a ModelFormat, declare it here, and add it to the table in model_file.cc.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model_file/mapped_file.h"
#include "common/model_file/model_file.h"

namespace tailor {

// Everything a format read. Not yet checked against each other: ModelFile does that.
struct ModelContents {
  std::string name;
  LlamaHyperparameters hyperparameters;
  TokenizerSpec tokenizer;
  // By canonical name. The names inside the views are set by ModelFile.
  std::map<std::string, TensorView, std::less<>> tensors;
  std::vector<MappedFile> files;  // keep the views alive
};

struct ModelFormat {
  std::string_view name;
  bool (*recognises)(const std::filesystem::path& path);
  absl::StatusOr<ModelContents> (*load)(const std::filesystem::path& path);
};

extern const ModelFormat kGgufFormat;         // gguf_format.cc
extern const ModelFormat kHfDirectoryFormat;  // hf_directory.cc

}  // namespace tailor
