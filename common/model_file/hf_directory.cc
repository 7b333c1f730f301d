// A model of Llama's kind in a Hugging Face directory: config.json, safetensors, tokenizer files.

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "common/model_file/hf_tokenizer.h"
#include "common/model_file/json_fields.h"
#include "common/model_file/llama_tensors.h"
#include "common/model_file/model_family.h"
#include "common/model_file/model_format.h"
#include "common/model_file/safetensors.h"
#include "common/status.h"

namespace tailor {
namespace {

using nlohmann::json;
using std::filesystem::path;

constexpr uint64_t kMaxConfigBytes = 16 << 20;
constexpr uint64_t kMaxTokenizerBytes = 256 << 20;
constexpr const char* kIndexFile = "model.safetensors.index.json";

bool Exists(const path& file) {
  std::error_code error;
  return std::filesystem::exists(file, error);
}

absl::Status In(const path& file, const absl::Status& status) {
  return absl::Status(status.code(),
                      absl::StrCat(file.string(), ": ", std::string(status.message())));
}

absl::StatusOr<json> ReadJson(const path& file, uint64_t max_bytes = kMaxConfigBytes) {
  TS_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(file, max_bytes));
  return ParseJsonObject(text, file.string());
}

// An empty object when there is no such file.
absl::StatusOr<json> ReadOptionalJson(const path& file) {
  if (!Exists(file)) return json::object();
  return ReadJson(file);
}

absl::StatusOr<int32_t> RequireInt32(const json& config, const char* key,
                                     std::optional<int64_t> fallback = std::nullopt) {
  TS_ASSIGN_OR_RETURN(std::optional<int64_t> value, GetInt(config, key));
  if (!value) value = fallback;
  if (!value) return absl::InvalidArgumentError(absl::StrCat(key, " is missing"));
  if (!std::in_range<int32_t>(*value)) {
    return absl::InvalidArgumentError(absl::StrCat(key, " is ", *value, ", limit is 32 bits"));
  }
  return static_cast<int32_t>(*value);
}

absl::StatusOr<const ModelFamily*> FamilyOf(const json& config) {
  const json* names = FindField(config, "architectures");
  const bool named = names != nullptr && names->is_array() && names->size() == 1;
  const std::string name =
      named && (*names)[0].is_string() ? (*names)[0].get<std::string>() : "none";
  const ModelFamily* family = FindFamily(&ModelFamily::hugging_face, name);
  if (family != nullptr) return family;
  return absl::UnimplementedError(absl::StrCat("architecture is ", name, ", supported are ",
                                               FamilyNames(&ModelFamily::hugging_face)));
}

// What the forward pass would ignore.
absl::Status CheckForwardPass(const json& config) {
  for (const char* key : {"attention_bias", "mlp_bias", "use_sliding_window"}) {
    TS_ASSIGN_OR_RETURN(const auto used, GetBool(config, key));
    if (used.value_or(false)) {
      return absl::UnimplementedError(absl::StrCat(key, " is true, supported is false"));
    }
  }
  TS_ASSIGN_OR_RETURN(const auto act, GetString(config, "hidden_act"));
  if (act.value_or("silu") == "silu") return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat("hidden_act is ", *act, ", supported is silu"));
}

absl::StatusOr<float> RequireFloat(const json& object, const char* key) {
  TS_ASSIGN_OR_RETURN(const auto value, GetNumber(object, key));
  if (value) return static_cast<float>(*value);
  return absl::InvalidArgumentError(absl::StrCat("rope scaling's ", key, " is missing"));
}

absl::Status ReadScaling(const json& rope, RopeScaling& out) {
  TS_ASSIGN_OR_RETURN(auto kind, GetString(rope, "rope_type"));
  if (!kind) {
    TS_ASSIGN_OR_RETURN(kind, GetString(rope, "type"));  // its older name
  }
  if (kind.value_or("default") == "default") return absl::OkStatus();
  if (*kind != "linear" && *kind != "llama3") {
    return absl::UnimplementedError(
        absl::StrCat("rope scaling is \"", *kind, "\", supported are default, linear and llama3"));
  }
  TS_ASSIGN_OR_RETURN(out.factor, RequireFloat(rope, "factor"));
  out.kind = RopeScaling::Kind::kLinear;
  if (*kind == "linear") return absl::OkStatus();
  out.kind = RopeScaling::Kind::kLlama3;
  TS_ASSIGN_OR_RETURN(out.low_freq_factor, RequireFloat(rope, "low_freq_factor"));
  TS_ASSIGN_OR_RETURN(out.high_freq_factor, RequireFloat(rope, "high_freq_factor"));
  TS_ASSIGN_OR_RETURN(out.original_context, RequireInt32(rope, "original_max_position_embeddings"));
  return absl::OkStatus();
}

// rope_theta and rope_scaling, or both inside rope_parameters (transformers 5).
absl::Status ReadRope(const json& config, LlamaHyperparameters& m) {
  m.rope_layout = RopeLayout::kHalf;
  const json* parameters = FindField(config, "rope_parameters");
  const json& holder = parameters != nullptr ? *parameters : config;
  TS_ASSIGN_OR_RETURN(const auto theta, GetNumber(holder, "rope_theta"));
  m.rope_theta = static_cast<float>(theta.value_or(10000));
  const json* scaling = parameters != nullptr ? parameters : FindField(config, "rope_scaling");
  return scaling == nullptr ? absl::OkStatus() : ReadScaling(*scaling, m.rope_scaling);
}

absl::StatusOr<LlamaHyperparameters> ReadHyperparameters(const json& config,
                                                         const ModelFamily& family) {
  LlamaHyperparameters m;
  m.qkv_bias = family.qkv_bias;
  TS_ASSIGN_OR_RETURN(m.layers, RequireInt32(config, "num_hidden_layers"));
  TS_ASSIGN_OR_RETURN(m.hidden, RequireInt32(config, "hidden_size"));
  TS_ASSIGN_OR_RETURN(m.ffn_hidden, RequireInt32(config, "intermediate_size"));
  TS_ASSIGN_OR_RETURN(m.vocab, RequireInt32(config, "vocab_size"));
  TS_ASSIGN_OR_RETURN(m.q_heads, RequireInt32(config, "num_attention_heads"));
  TS_ASSIGN_OR_RETURN(m.kv_heads, RequireInt32(config, "num_key_value_heads", m.q_heads));
  TS_ASSIGN_OR_RETURN(m.head_dim,
                      RequireInt32(config, "head_dim", m.q_heads > 0 ? m.hidden / m.q_heads : 0));
  TS_ASSIGN_OR_RETURN(m.context_tokens, RequireInt32(config, "max_position_embeddings"));
  TS_ASSIGN_OR_RETURN(const auto eps, GetNumber(config, "rms_norm_eps"));
  m.rms_eps = static_cast<float>(eps.value_or(1e-6));  // the default of transformers
  TS_ASSIGN_OR_RETURN(const auto tied, GetBool(config, "tie_word_embeddings"));
  m.tied_embedding = tied.value_or(false);
  TS_RETURN_IF_ERROR(ReadRope(config, m));
  return m;
}

// The shards: those of the index, else the one file there is.
absl::StatusOr<std::set<std::string>> ShardNames(const path& directory) {
  if (!Exists(directory / kIndexFile)) return std::set<std::string>{"model.safetensors"};
  TS_ASSIGN_OR_RETURN(const json index, ReadJson(directory / kIndexFile));
  const json* map = FindField(index, "weight_map");
  if (map == nullptr || !map->is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(kIndexFile, " has no weight_map object"));
  }
  std::set<std::string> names;
  for (const auto& [tensor, file] : map->items()) {
    const std::string name = file.is_string() ? file.get<std::string>() : "";
    // A plain file name: the index must not reach outside its directory.
    if (!name.ends_with(".safetensors") || name.find('/') != std::string::npos) {
      return absl::InvalidArgumentError(absl::StrCat(kIndexFile, " puts tensor ", tensor,
                                                     " into \"", name,
                                                     "\", must be a *.safetensors name"));
    }
    names.insert(name);
  }
  return names;
}

// Buffers that old exports carry and the forward pass computes itself.
bool IsDerived(std::string_view name) { return name.ends_with(".rotary_emb.inv_freq"); }

absl::Status AddShard(const path& file, ModelContents& contents) {
  TS_ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::Map(file));
  TS_ASSIGN_OR_RETURN(const auto tensors, ParseSafetensors(mapped.bytes()));
  for (const auto& [name, view] : tensors) {
    if (IsDerived(name)) continue;
    // A tied head may be stored once more; the embedding is the one in use.
    if (contents.hyperparameters.tied_embedding && name == "lm_head.weight") continue;
    const auto canonical = CanonicalFromHuggingFace(name);
    if (!canonical) {
      return absl::UnimplementedError(
          absl::StrCat("tensor ", name, " is no part of a model of Llama's kind"));
    }
    if (!contents.tensors.emplace(*canonical, view).second) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", name, " is in two files"));
    }
  }
  contents.files.push_back(std::move(mapped));
  return absl::OkStatus();
}

absl::Status ReadTensors(const path& directory, ModelContents& contents) {
  TS_ASSIGN_OR_RETURN(const std::set<std::string> names, ShardNames(directory));
  for (const std::string& name : names) {
    const absl::Status added = AddShard(directory / name, contents);
    if (!added.ok()) return In(name, added);
  }
  return absl::OkStatus();
}

// An id or a list of ids, the first of which is eos.
absl::Status ReadEndIds(const json& config, TokenizerSpec& spec) {
  const json* ids = FindField(config, "eos_token_id");
  if (ids == nullptr) return absl::OkStatus();
  const json list = ids->is_array() ? *ids : json::array({*ids});
  for (const json& id : list) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= spec.tokens.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("eos_token_id names no token below ", spec.tokens.size()));
    }
    if (!spec.eos) spec.eos = id.get<TokenId>();
    if (*spec.eos != id.get<TokenId>()) spec.extra_end_of_generation.push_back(id.get<TokenId>());
  }
  return absl::OkStatus();
}

// tokenizer_config.json names a token as text, or as an object with the text in "content".
std::optional<TokenId> NamedToken(const json& config, const char* key, const TokenizerSpec& spec) {
  const json* value = FindField(config, key);
  if (value != nullptr && value->is_object()) value = FindField(*value, "content");
  if (value == nullptr || !value->is_string()) return std::nullopt;
  for (size_t id = 0; id < spec.tokens.size(); ++id) {
    if (spec.tokens[id] == value->get_ref<const std::string&>()) return static_cast<TokenId>(id);
  }
  return std::nullopt;
}

// One template, or a list of named ones of which "default" counts.
std::string ChatTemplateOf(const json& config) {
  const json* value = FindField(config, "chat_template");
  if (value == nullptr) return "";
  if (value->is_string()) return value->get<std::string>();
  if (!value->is_array()) return "";
  for (const json& entry : *value) {
    const json* name = FindField(entry, "name");
    const json* text = FindField(entry, "template");
    if (name != nullptr && *name == "default" && text != nullptr && text->is_string()) {
      return text->get<std::string>();
    }
  }
  return "";
}

absl::Status ReadChatTemplate(const path& directory, const json& config, TokenizerSpec& spec) {
  spec.chat_template = ChatTemplateOf(config);
  const path file = directory / "chat_template.jinja";
  if (!Exists(file)) return absl::OkStatus();
  TS_ASSIGN_OR_RETURN(spec.chat_template, ReadTextFile(file, kMaxConfigBytes));
  return absl::OkStatus();
}

// The embedding may have more rows than there are tokens: the rest is padding.
absl::Status PadTo(int32_t vocab, TokenizerSpec& spec) {
  if (spec.tokens.size() > static_cast<size_t>(std::max(vocab, 0))) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer.json has ", spec.tokens.size(),
                                                   " tokens, config.json's vocab_size is ", vocab));
  }
  spec.tokens.resize(vocab);
  spec.kinds.resize(vocab, TokenKind::kUnused);
  return absl::OkStatus();
}

absl::Status ReadTokenizer(const path& directory, const json& config, ModelContents& contents) {
  TS_ASSIGN_OR_RETURN(const std::string text,
                      ReadTextFile(directory / "tokenizer.json", kMaxTokenizerBytes));
  TokenizerSpec& spec = contents.tokenizer;
  TS_ASSIGN_OR_RETURN(spec, ParseHfTokenizer(text));
  TS_ASSIGN_OR_RETURN(const json tokenizer_config,
                      ReadOptionalJson(directory / "tokenizer_config.json"));
  TS_ASSIGN_OR_RETURN(const json generation,
                      ReadOptionalJson(directory / "generation_config.json"));
  spec.bos = NamedToken(tokenizer_config, "bos_token", spec);
  spec.eos = NamedToken(tokenizer_config, "eos_token", spec);
  spec.unknown = NamedToken(tokenizer_config, "unk_token", spec);
  TS_ASSIGN_OR_RETURN(const auto add_bos, GetBool(tokenizer_config, "add_bos_token"));
  spec.add_bos = add_bos.value_or(spec.add_bos);
  TS_RETURN_IF_ERROR(ReadEndIds(generation, spec));
  TS_RETURN_IF_ERROR(ReadEndIds(config, spec));
  TS_RETURN_IF_ERROR(ReadChatTemplate(directory, tokenizer_config, spec));
  return PadTo(contents.hyperparameters.vocab, spec);
}

absl::StatusOr<ModelContents> LoadDirectory(const path& directory) {
  TS_ASSIGN_OR_RETURN(const json config, ReadJson(directory / "config.json"));
  TS_ASSIGN_OR_RETURN(const ModelFamily* family, FamilyOf(config));
  TS_RETURN_IF_ERROR(CheckForwardPass(config));
  ModelContents contents;
  const path full = std::filesystem::absolute(directory).lexically_normal();
  contents.name = (full.has_filename() ? full : full.parent_path()).filename().string();
  TS_ASSIGN_OR_RETURN(contents.hyperparameters, ReadHyperparameters(config, *family));
  TS_RETURN_IF_ERROR(contents.hyperparameters.Validate());
  TS_RETURN_IF_ERROR(ReadTokenizer(directory, config, contents));
  TS_RETURN_IF_ERROR(ReadTensors(directory, contents));
  return contents;
}

absl::StatusOr<ModelContents> Load(const path& directory) {
  auto contents = LoadDirectory(directory);
  if (contents.ok()) return contents;
  return In(directory, contents.status());
}

bool Recognises(const path& directory) {
  std::error_code error;
  return std::filesystem::is_directory(directory, error);
}

}  // namespace

const ModelFormat kHfDirectoryFormat = {
    .name = "Hugging Face directory (config.json)", .recognises = Recognises, .load = Load};

}  // namespace tailor
