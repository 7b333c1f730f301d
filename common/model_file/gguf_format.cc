// A model of Llama's kind in a GGUF file: which keys hold what.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <utility>

#include "common/model_file/gguf.h"
#include "common/model_file/model_family.h"
#include "common/model_file/model_format.h"
#include "common/status.h"

namespace tailor {
namespace {

absl::StatusOr<int32_t> GetInt32(const Gguf& gguf, const std::string& key) {
  TS_ASSIGN_OR_RETURN(const int64_t value, gguf.Get<int64_t>(key));
  if (std::in_range<int32_t>(value)) return static_cast<int32_t>(value);
  return absl::InvalidArgumentError(absl::StrCat("GGUF key ", key, " is ", value, ", limit ",
                                                 std::numeric_limits<int32_t>::max()));
}

// Floats of GGUF's f32 keys come back exactly.
absl::StatusOr<float> GetFloatOr(const Gguf& gguf, const std::string& key, float fallback) {
  TS_ASSIGN_OR_RETURN(const double value, gguf.GetOr<double>(key, fallback));
  return static_cast<float>(value);
}

absl::StatusOr<const ModelFamily*> FamilyOf(const Gguf& gguf) {
  TS_ASSIGN_OR_RETURN(const auto name, gguf.Get<std::string_view>("general.architecture"));
  const ModelFamily* family = FindFamily(&ModelFamily::gguf, name);
  if (family != nullptr) return family;
  return absl::UnimplementedError(absl::StrCat("architecture is \"", std::string(name),
                                               "\", supported are ",
                                               FamilyNames(&ModelFamily::gguf)));
}

// A file's keys that begin with its architecture's name.
struct FamilyKeys {
  const Gguf& gguf;
  const ModelFamily& family;
  std::string operator()(const char* name) const {
    return absl::StrCat(std::string(family.gguf), ".", name);
  }
};

// What the forward pass would ignore.
absl::Status CheckForwardPass(const FamilyKeys& key) {
  TS_ASSIGN_OR_RETURN(const int64_t experts, key.gguf.GetOr<int64_t>(key("expert_count"), 0));
  if (experts != 0) {
    return absl::UnimplementedError(
        absl::StrCat("model has ", experts, " experts, only dense models are supported"));
  }
  TS_ASSIGN_OR_RETURN(const int64_t window,
                      key.gguf.GetOr<int64_t>(key("attention.sliding_window"), 0));
  if (window == 0) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat("model attends to a sliding window of ", window,
                                               " tokens, supported is attention to all"));
}

absl::Status ReadHeadDim(const FamilyKeys& key, LlamaHyperparameters& m) {
  m.head_dim = m.q_heads > 0 ? m.hidden / m.q_heads : 0;
  if (key.gguf.Has(key("attention.key_length"))) {
    TS_ASSIGN_OR_RETURN(m.head_dim, GetInt32(key.gguf, key("attention.key_length")));
  }
  for (const char* name : {"attention.value_length", "rope.dimension_count"}) {
    TS_ASSIGN_OR_RETURN(const int64_t value, key.gguf.GetOr<int64_t>(key(name), m.head_dim));
    if (value != m.head_dim) {
      return absl::UnimplementedError(
          absl::StrCat(key(name), " is ", value, ", supported is head_dim, ", m.head_dim));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadScalingKeys(const FamilyKeys& key, RopeScaling& scaling) {
  TS_ASSIGN_OR_RETURN(const auto kind,
                      key.gguf.GetOr<std::string_view>(key("rope.scaling.type"), "none"));
  if (kind != "none" && kind != "linear") {
    return absl::UnimplementedError(absl::StrCat("rope scaling is \"", std::string(kind),
                                                 "\", supported are none, linear and llama3"));
  }
  TS_ASSIGN_OR_RETURN(scaling.factor, GetFloatOr(key.gguf, key("rope.scaling.factor"), 1.0f));
  if (kind == "linear") scaling.kind = RopeScaling::Kind::kLinear;
  return absl::OkStatus();
}

// Llama 3.1's scaling reaches a GGUF file only as its result, the tensor rope_freqs.weight. The
// formula is recovered from the largest factor, then must reproduce the tensor.
absl::Status RecoverLlama3Scaling(std::span<const float> factors, LlamaHyperparameters& m) {
  RopeScaling scaling{.kind = RopeScaling::Kind::kLlama3, .factor = 1};
  for (const float factor : factors) scaling.factor = std::max(scaling.factor, factor);
  const std::vector<float> formula = RopeFrequencyFactors(scaling, m.rope_theta, m.head_dim);
  for (size_t i = 0; i < factors.size(); ++i) {
    // The file's were computed in f32 from a rounded frequency: a few dozen roundings.
    if (!(std::abs(factors[i] - formula[i]) <= 1e-4f * formula[i])) {
      return absl::UnimplementedError(absl::StrCat(
          "tensor rope_freqs.weight has ", factors[i], " at ", i, ", Llama 3.1's scaling by ",
          scaling.factor, " gives ", formula[i], "; no other scaling is supported"));
    }
  }
  if (scaling.factor > 1) m.rope_scaling = scaling;
  return absl::OkStatus();
}

absl::Status TakeRopeFactors(ModelContents& contents) {
  const auto found = contents.tensors.find("rope_freqs.weight");
  if (found == contents.tensors.end()) return absl::OkStatus();
  const TensorView& tensor = found->second;
  LlamaHyperparameters& m = contents.hyperparameters;
  if (tensor.dtype != DType::kF32 || tensor.rows != 1 || tensor.cols != m.head_dim / 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor rope_freqs.weight is ", std::string(DTypeName(tensor.dtype)), " ",
                     tensor.rows, " x ", tensor.cols, ", must be F32 1 x ", m.head_dim / 2));
  }
  std::vector<float> factors(tensor.cols);
  std::memcpy(factors.data(), tensor.bytes.data(), tensor.bytes.size());
  contents.tensors.erase(found);
  return RecoverLlama3Scaling(factors, m);
}

absl::Status ReadHyperparameters(const FamilyKeys& key, LlamaHyperparameters& m) {
  const Gguf& gguf = key.gguf;
  TS_ASSIGN_OR_RETURN(m.layers, GetInt32(gguf, key("block_count")));
  TS_ASSIGN_OR_RETURN(m.hidden, GetInt32(gguf, key("embedding_length")));
  TS_ASSIGN_OR_RETURN(m.ffn_hidden, GetInt32(gguf, key("feed_forward_length")));
  TS_ASSIGN_OR_RETURN(m.q_heads, GetInt32(gguf, key("attention.head_count")));
  m.kv_heads = m.q_heads;
  if (gguf.Has(key("attention.head_count_kv"))) {
    TS_ASSIGN_OR_RETURN(m.kv_heads, GetInt32(gguf, key("attention.head_count_kv")));
  }
  TS_ASSIGN_OR_RETURN(m.context_tokens, gguf.Get<int64_t>(key("context_length")));
  TS_ASSIGN_OR_RETURN(m.rope_theta, GetFloatOr(gguf, key("rope.freq_base"), 10000.0f));
  TS_ASSIGN_OR_RETURN(const double eps, gguf.Get<double>(key("attention.layer_norm_rms_epsilon")));
  m.rms_eps = static_cast<float>(eps);
  m.rope_layout = key.family.gguf_rope_layout;
  m.qkv_bias = key.family.qkv_bias;
  m.tied_embedding = !gguf.tensors().contains("output.weight");
  TS_RETURN_IF_ERROR(ReadHeadDim(key, m));
  return ReadScalingKeys(key, m.rope_scaling);
}

absl::StatusOr<TokenKind> KindOf(int64_t type, size_t id) {
  switch (type) {  // llama.cpp's numbering
    case 1:
      return TokenKind::kNormal;
    case 2:
      return TokenKind::kUnknown;
    case 3:
      return TokenKind::kControl;
    case 4:
      return TokenKind::kUserDefined;
    case 5:
      return TokenKind::kUnused;
    case 6:
      return TokenKind::kByte;
    default:
      break;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("token ", id, " has type ", type, ", must be from 1 to 6"));
}

absl::Status ReadTokenTable(const Gguf& gguf, TokenizerSpec& spec) {
  TS_ASSIGN_OR_RETURN(const auto tokens,
                      gguf.Get<std::vector<std::string_view>>("tokenizer.ggml.tokens"));
  TS_ASSIGN_OR_RETURN(const auto types,
                      gguf.GetOr<std::vector<int64_t>>("tokenizer.ggml.token_type",
                                                       std::vector<int64_t>(tokens.size(), 1)));
  TS_ASSIGN_OR_RETURN(const auto merges,
                      gguf.Get<std::vector<std::string_view>>("tokenizer.ggml.merges"));
  if (types.size() != tokens.size()) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer has ", tokens.size(), " tokens but ",
                                                   types.size(), " token types"));
  }
  for (size_t id = 0; id < tokens.size(); ++id) {
    TS_ASSIGN_OR_RETURN(const TokenKind kind, KindOf(types[id], id));
    spec.kinds.push_back(kind);
    spec.tokens.emplace_back(tokens[id]);
  }
  spec.merges.assign(merges.begin(), merges.end());
  return absl::OkStatus();
}

absl::StatusOr<std::optional<TokenId>> GetTokenId(const Gguf& gguf, const std::string& key) {
  if (!gguf.Has(key)) return std::nullopt;
  TS_ASSIGN_OR_RETURN(const TokenId id, GetInt32(gguf, key));
  return id;
}

absl::StatusOr<std::string> PreTokenizerName(const Gguf& gguf) {
  TS_ASSIGN_OR_RETURN(const auto model, gguf.Get<std::string_view>("tokenizer.ggml.model"));
  if (model != "gpt2") {
    return absl::UnimplementedError(absl::StrCat("tokenizer is \"", std::string(model),
                                                 "\", supported is byte-level BPE, \"gpt2\""));
  }
  TS_ASSIGN_OR_RETURN(const auto pre, gguf.Get<std::string_view>("tokenizer.ggml.pre"));
  // llama.cpp's synonyms of those we have.
  if (pre == "llama-bpe" || pre == "llama3" || pre == "llama-v3") return "llama-bpe";
  return std::string(pre);
}

absl::StatusOr<TokenizerSpec> ReadTokenizer(const Gguf& gguf) {
  TokenizerSpec spec;
  TS_ASSIGN_OR_RETURN(spec.pre_tokenizer, PreTokenizerName(gguf));
  spec.ignore_merges = spec.pre_tokenizer == "llama-bpe";
  TS_RETURN_IF_ERROR(ReadTokenTable(gguf, spec));
  const std::string prefix = "tokenizer.ggml.";
  TS_ASSIGN_OR_RETURN(spec.bos, GetTokenId(gguf, prefix + "bos_token_id"));
  TS_ASSIGN_OR_RETURN(spec.eos, GetTokenId(gguf, prefix + "eos_token_id"));
  TS_ASSIGN_OR_RETURN(spec.unknown, GetTokenId(gguf, prefix + "unknown_token_id"));
  for (const char* key : {"eot_token_id", "eom_token_id"}) {
    TS_ASSIGN_OR_RETURN(const auto id, GetTokenId(gguf, prefix + key));
    if (id) spec.extra_end_of_generation.push_back(*id);
  }
  // Llama 3 files of before the key was written start with bos all the same, as llama.cpp does.
  TS_ASSIGN_OR_RETURN(
      spec.add_bos, gguf.GetOr<bool>(prefix + "add_bos_token", spec.pre_tokenizer == "llama-bpe"));
  TS_ASSIGN_OR_RETURN(const auto chat, gguf.GetOr<std::string_view>("tokenizer.chat_template", ""));
  spec.chat_template = std::string(chat);
  return spec;
}

absl::StatusOr<ModelContents> LoadGguf(const std::filesystem::path& path) {
  TS_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Map(path));
  TS_ASSIGN_OR_RETURN(const Gguf gguf, Gguf::Parse(file.bytes()));
  TS_ASSIGN_OR_RETURN(const ModelFamily* family, FamilyOf(gguf));
  const FamilyKeys key = {gguf, *family};
  TS_RETURN_IF_ERROR(CheckForwardPass(key));
  ModelContents contents;
  TS_ASSIGN_OR_RETURN(const auto name, gguf.GetOr<std::string_view>("general.name", ""));
  contents.name = name.empty() ? path.stem().string() : std::string(name);
  TS_RETURN_IF_ERROR(ReadHyperparameters(key, contents.hyperparameters));
  TS_ASSIGN_OR_RETURN(contents.tokenizer, ReadTokenizer(gguf));
  const auto tokens = static_cast<int64_t>(contents.tokenizer.tokens.size());
  TS_ASSIGN_OR_RETURN(const int64_t vocab, gguf.GetOr<int64_t>(key("vocab_size"), tokens));
  if (vocab != tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat(key("vocab_size"), " is ", vocab, ", the tokenizer has ", tokens, " tokens"));
  }
  if (!std::in_range<int32_t>(tokens)) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer has ", tokens, " tokens"));
  }
  contents.hyperparameters.vocab = static_cast<int32_t>(tokens);
  contents.tensors = gguf.tensors();
  contents.files.push_back(std::move(file));
  TS_RETURN_IF_ERROR(TakeRopeFactors(contents));
  return contents;
}

absl::StatusOr<ModelContents> Load(const std::filesystem::path& path) {
  auto contents = LoadGguf(path);
  if (contents.ok()) return contents;
  return absl::Status(contents.status().code(),
                      absl::StrCat(path.string(), ": ", std::string(contents.status().message())));
}

// By its first bytes: downloaded blobs often lack the extension. A file named .gguf is taken in any
// case, so that its error says what is wrong with it.
bool Recognises(const std::filesystem::path& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) return false;
  if (path.extension() == ".gguf") return true;
  if (!std::filesystem::is_regular_file(path, error)) return false;
  std::array<char, 4> magic = {};
  std::ifstream(path, std::ios::binary).read(magic.data(), magic.size());
  return std::string_view(magic.data(), magic.size()) == "GGUF";
}

}  // namespace

const ModelFormat kGgufFormat = {.name = "GGUF (*.gguf)", .recognises = Recognises, .load = Load};

}  // namespace tailor
