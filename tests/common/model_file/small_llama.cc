#include "tests/common/model_file/small_llama.h"

#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "common/status.h"
#include "tests/common/model_file/gguf_bytes.h"

namespace tailor {
namespace {

using nlohmann::json;

constexpr const char* kTemplate =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>\\n'}}{% endfor %}";

// As in Qwen2's tokenizer.json.
constexpr const char* kQwen2Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// GPT-2's writing of a byte.
std::string Symbol(int byte) {
  int c = byte;
  const auto printable = [](int b) {
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
  };
  if (!printable(byte)) {
    c = 256;
    for (int b = 0; b < byte; ++b) c += printable(b) ? 0 : 1;
  }
  if (c < 0x80) return std::string(1, static_cast<char>(c));
  return {static_cast<char>(0xc0 | c >> 6), static_cast<char>(0x80 | (c & 63))};
}

TokenizerSpec MakeTokenizer() {
  TokenizerSpec spec;
  const auto add = [&](const std::string& text, TokenKind kind) {
    spec.tokens.push_back(text);
    spec.kinds.push_back(kind);
  };
  for (const char* text : {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}) {
    add(text, TokenKind::kControl);
  }
  for (int byte = 0; byte < 256; ++byte) add(Symbol(byte), TokenKind::kNormal);
  add("th", TokenKind::kNormal);
  add("the", TokenKind::kNormal);
  add("<tool>", TokenKind::kUserDefined);
  spec.merges = {"t h", "th e"};
  spec.pre_tokenizer = "smollm";
  spec.bos = 1;
  spec.eos = 2;
  spec.unknown = 0;
  spec.chat_template = kTemplate;
  return spec;
}

void AddTensors(SmallLlama& model) {
  const LlamaHyperparameters& m = model.hyperparameters;
  const int64_t q = int64_t{m.q_heads} * m.head_dim, kv = int64_t{m.kv_heads} * m.head_dim;
  const auto add = [&](const std::string& name, int64_t rows, int64_t cols) {
    model.tensors[name] = {rows, cols, {}};
  };
  add("token_embd.weight", m.vocab, m.hidden);
  add("output_norm.weight", 1, m.hidden);
  add("output.weight", m.vocab, m.hidden);
  for (int32_t layer = 0; layer < m.layers; ++layer) {
    const std::string p = "blk." + std::to_string(layer) + ".";
    add(p + "attn_norm.weight", 1, m.hidden);
    add(p + "attn_q.weight", q, m.hidden);
    add(p + "attn_k.weight", kv, m.hidden);
    add(p + "attn_v.weight", kv, m.hidden);
    if (m.qkv_bias) {
      add(p + "attn_q.bias", 1, q);
      add(p + "attn_k.bias", 1, kv);
      add(p + "attn_v.bias", 1, kv);
    }
    add(p + "attn_output.weight", m.hidden, q);
    add(p + "ffn_norm.weight", 1, m.hidden);
    add(p + "ffn_gate.weight", m.ffn_hidden, m.hidden);
    add(p + "ffn_up.weight", m.ffn_hidden, m.hidden);
    add(p + "ffn_down.weight", m.hidden, m.ffn_hidden);
  }
  std::mt19937 random(1);
  for (auto& [name, tensor] : model.tensors) {
    tensor.values.resize(static_cast<size_t>(tensor.rows * tensor.cols));
    for (float& value : tensor.values) value = static_cast<float>(random() % 2001) / 1000 - 1;
  }
}

std::string BytesOf(const FloatTensor& tensor) {
  return std::string(reinterpret_cast<const char*>(tensor.values.data()),
                     tensor.values.size() * sizeof(float));
}

std::string HuggingFaceName(const std::string& canonical) {
  const std::map<std::string, std::string> names = {
      {"token_embd.weight", "model.embed_tokens.weight"},
      {"output_norm.weight", "model.norm.weight"},
      {"output.weight", "lm_head.weight"},
      {"attn_norm.weight", "input_layernorm.weight"},
      {"attn_q.weight", "self_attn.q_proj.weight"},
      {"attn_k.weight", "self_attn.k_proj.weight"},
      {"attn_v.weight", "self_attn.v_proj.weight"},
      {"attn_q.bias", "self_attn.q_proj.bias"},
      {"attn_k.bias", "self_attn.k_proj.bias"},
      {"attn_v.bias", "self_attn.v_proj.bias"},
      {"attn_output.weight", "self_attn.o_proj.weight"},
      {"ffn_norm.weight", "post_attention_layernorm.weight"},
      {"ffn_gate.weight", "mlp.gate_proj.weight"},
      {"ffn_up.weight", "mlp.up_proj.weight"},
      {"ffn_down.weight", "mlp.down_proj.weight"}};
  if (!canonical.starts_with("blk.")) {
    const auto found = names.find(canonical);
    return found == names.end() ? canonical : found->second;
  }
  const size_t dot = canonical.find('.', 4);
  return "model.layers." + canonical.substr(4, dot - 4) + "." + names.at(canonical.substr(dot + 1));
}

void AddHyperparameterKeys(const SmallLlama& model, GgufFile& file) {
  const LlamaHyperparameters& m = model.hyperparameters;
  const std::string family(model.family->gguf);
  const auto put = [&](const char* name, uint32_t type, const std::string& value) {
    file.keys.push_back(GgufKey(family + "." + name, type, value));
  };
  const auto put_u32 = [&](const char* name, int64_t value) {
    put(name, 4, Raw(static_cast<uint32_t>(value)));
  };
  file.keys.push_back(GgufKey("general.architecture", 8, GgufString(family)));
  file.keys.push_back(GgufKey("general.name", 8, GgufString("small")));
  put_u32("block_count", m.layers);
  put_u32("embedding_length", m.hidden);
  put_u32("feed_forward_length", m.ffn_hidden);
  put_u32("attention.head_count", m.q_heads);
  put_u32("attention.head_count_kv", m.kv_heads);
  put_u32("context_length", m.context_tokens);
  put("rope.freq_base", 6, Raw(m.rope_theta));
  put("attention.layer_norm_rms_epsilon", 6, Raw(m.rms_eps));
}

void AddTokenizerKeys(const TokenizerSpec& spec, GgufFile& file) {
  const auto strings = [](const std::vector<std::string>& texts) {
    std::string bytes;
    for (const std::string& text : texts) bytes += GgufString(text);
    return GgufArray(8, texts.size(), bytes);
  };
  std::string kinds;
  for (const TokenKind kind : spec.kinds) {
    kinds += Raw<int32_t>(kind == TokenKind::kControl       ? 3
                          : kind == TokenKind::kUserDefined ? 4
                                                            : 1);
  }
  const std::string prefix = "tokenizer.ggml.";
  file.keys.push_back(GgufKey(prefix + "model", 8, GgufString("gpt2")));
  file.keys.push_back(GgufKey(prefix + "pre", 8, GgufString(spec.pre_tokenizer)));
  file.keys.push_back(GgufKey(prefix + "tokens", 9, strings(spec.tokens)));
  file.keys.push_back(GgufKey(prefix + "token_type", 9, GgufArray(5, spec.kinds.size(), kinds)));
  file.keys.push_back(GgufKey(prefix + "merges", 9, strings(spec.merges)));
  for (const auto& [name, id] :
       {std::pair{"bos", spec.bos}, {"eos", spec.eos}, {"unknown", spec.unknown}}) {
    if (id)
      file.keys.push_back(GgufKey(prefix + name + "_token_id", 4, Raw(static_cast<uint32_t>(*id))));
  }
  file.keys.push_back(GgufKey("tokenizer.chat_template", 8, GgufString(spec.chat_template)));
}

}  // namespace

SmallLlama MakeSmallLlama() {
  SmallLlama model;
  model.tokenizer = MakeTokenizer();
  LlamaHyperparameters& m = model.hyperparameters;
  m.layers = 2;
  m.hidden = 16;
  m.q_heads = 4;
  m.kv_heads = 2;
  m.head_dim = 4;
  m.ffn_hidden = 24;
  m.vocab = static_cast<int32_t>(model.tokenizer.tokens.size());
  m.context_tokens = 512;
  m.rope_theta = 50000;
  m.rms_eps = 1e-5f;
  AddTensors(model);
  return model;
}

SmallLlama MakeSmallQwen2() {
  SmallLlama model = MakeSmallLlama();
  model.family = FindFamily(&ModelFamily::gguf, "qwen2");
  model.hyperparameters.qkv_bias = true;
  model.tokenizer.pre_tokenizer = "qwen2";
  model.tensors.clear();
  AddTensors(model);
  return model;
}

std::string GgufOf(const SmallLlama& model, const std::vector<std::string>& extra_keys) {
  GgufFile file;
  AddHyperparameterKeys(model, file);
  AddTokenizerKeys(model.tokenizer, file);
  file.keys.insert(file.keys.end(), extra_keys.begin(), extra_keys.end());
  for (const auto& [name, tensor] : model.tensors) {
    GgufFile::Tensor entry{.name = name, .dims = {static_cast<uint64_t>(tensor.cols)}};
    if (tensor.rows > 1) entry.dims.push_back(static_cast<uint64_t>(tensor.rows));
    entry.offset = file.data.size();
    file.tensors.push_back(entry);
    file.data += BytesOf(tensor);
    file.data.resize((file.data.size() + 31) / 32 * 32);
  }
  return file.Bytes();
}

std::string SafetensorsOf(const SmallLlama& model) {
  json header = json::object();
  std::string data;
  for (const auto& [name, tensor] : model.tensors) {
    const json shape =
        tensor.rows == 1 ? json::array({tensor.cols}) : json::array({tensor.rows, tensor.cols});
    const size_t begin = data.size();
    data += BytesOf(tensor);
    header[HuggingFaceName(name)] = {
        {"dtype", "F32"}, {"shape", shape}, {"data_offsets", {begin, data.size()}}};
  }
  header["__metadata__"] = {{"format", "pt"}};
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  return Raw<uint64_t>(text.size()) + text + data;
}

std::string ConfigJsonOf(const SmallLlama& model) {
  const LlamaHyperparameters& m = model.hyperparameters;
  const json config = {{"architectures", {std::string(model.family->hugging_face)}},
                       {"num_hidden_layers", m.layers},
                       {"hidden_size", m.hidden},
                       {"intermediate_size", m.ffn_hidden},
                       {"vocab_size", m.vocab},
                       {"num_attention_heads", m.q_heads},
                       {"num_key_value_heads", m.kv_heads},
                       {"max_position_embeddings", m.context_tokens},
                       {"rope_theta", m.rope_theta},
                       {"rms_norm_eps", m.rms_eps},
                       {"tie_word_embeddings", m.tied_embedding},
                       {"eos_token_id", *model.tokenizer.eos}};
  return config.dump(2);
}

std::string TokenizerJsonOf(const SmallLlama& model) {
  json vocab = json::object(), added = json::array();
  const TokenizerSpec& spec = model.tokenizer;
  for (size_t id = 0; id < spec.tokens.size(); ++id) {
    if (spec.kinds[id] == TokenKind::kNormal) {
      vocab[spec.tokens[id]] = id;
    } else {
      added.push_back({{"id", id},
                       {"content", spec.tokens[id]},
                       {"special", spec.kinds[id] == TokenKind::kControl}});
    }
  }
  const bool is_qwen2 = spec.pre_tokenizer == "qwen2";
  const json digits = {{"type", "Digits"}, {"individual_digits", true}};
  const json split = {{"type", "Split"},
                      {"pattern", {{"Regex", kQwen2Regex}}},
                      {"behavior", "Isolated"},
                      {"invert", false}};
  const json steps = {
      is_qwen2 ? split : digits,
      {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", !is_qwen2}}};
  const json root = {{"added_tokens", added},
                     {"normalizer", is_qwen2 ? json{{"type", "NFC"}} : json(nullptr)},
                     {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", steps}}},
                     {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", spec.merges}}}};
  return root.dump();
}

std::string TokenizerConfigJsonOf(const SmallLlama& model) {
  const TokenizerSpec& spec = model.tokenizer;
  const json config = {{"bos_token", spec.tokens[*spec.bos]},
                       {"eos_token", {{"content", spec.tokens[*spec.eos]}}},
                       {"unk_token", spec.tokens[*spec.unknown]},
                       {"chat_template", spec.chat_template}};
  return config.dump();
}

void WriteFile(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  TS_CHECK(file.good());
}

void WriteHfDirectory(const SmallLlama& model, const std::filesystem::path& directory) {
  std::filesystem::create_directories(directory);
  WriteFile(directory / "config.json", ConfigJsonOf(model));
  WriteFile(directory / "tokenizer.json", TokenizerJsonOf(model));
  WriteFile(directory / "tokenizer_config.json", TokenizerConfigJsonOf(model));
  WriteFile(directory / "model.safetensors", SafetensorsOf(model));
}

}  // namespace tailor
