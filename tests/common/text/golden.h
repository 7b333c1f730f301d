// The files of tests/golden/tokenizer; its README.md describes them.
#pragma once

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/model_file/hf_tokenizer.h"
#include "common/status.h"

namespace tailor {

inline std::string ReadGolden(const std::string& name) {
  std::ifstream file(TAILOR_SOURCE_DIR "/tests/golden/tokenizer/" + name, std::ios::binary);
  TS_CHECK(file.good());
  return std::string((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
}

inline nlohmann::json ReadGoldenJson(const std::string& name) {
  return nlohmann::json::parse(ReadGolden(name));
}

// "gpt-2" or "llama-bpe": the small trained vocabularies, read as from a model's directory.
inline TokenizerSpec SmallSpec(const std::string& name) {
  auto spec = ParseHfTokenizer(ReadGolden(name + ".tokenizer.json"));
  TS_CHECK(spec.ok());
  return *std::move(spec);
}

}  // namespace tailor
