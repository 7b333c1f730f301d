#include "tests/support/tiny_model.h"

#include <stdlib.h>

#include <cmath>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "common/status.h"

namespace tailor {
namespace {

enum GgufType : uint32_t { kUint32 = 4, kInt32 = 5, kFloat32 = 6, kBool = 7, kString = 8, kArray = 9 };
constexpr uint32_t kTensorF32 = 0;
constexpr uint64_t kAlignment = 32;

// The bytes of a GGUF v3 file, field by field (docs: the format's public specification).
class GgufBytes {
 public:
  template <typename T>
  void Put(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void PutString(const std::string& text) {
    Put<uint64_t>(text.size());
    bytes_.append(text);
  }
  void Key(const std::string& name, GgufType type) {
    PutString(name);
    Put<uint32_t>(type);
  }
  void Align() { bytes_.resize((bytes_.size() + kAlignment - 1) / kAlignment * kAlignment); }
  std::string& bytes() { return bytes_; }

 private:
  std::string bytes_;
};

struct Tensor {
  std::string name;
  int64_t rows, cols;
  float scale;  // of the normal distribution; 0: all ones (a norm's gain)
};

std::vector<Tensor> Tensors(const TinyModelOptions& o) {
  const int64_t q = o.hidden, kv = int64_t{o.hidden} / o.q_heads * o.kv_heads;
  const float in = 1.0f / std::sqrt(static_cast<float>(o.hidden));
  std::vector<Tensor> tensors = {{"token_embd.weight", kTinyVocab, o.hidden, o.embedding_scale},
                                 {"output_norm.weight", 1, o.hidden, 0.0f}};
  for (int32_t layer = 0; layer < o.layers; ++layer) {
    const std::string p = "blk." + std::to_string(layer) + ".";
    tensors.push_back({p + "attn_norm.weight", 1, o.hidden, 0.0f});
    tensors.push_back({p + "attn_q.weight", q, o.hidden, 3 * in});
    tensors.push_back({p + "attn_k.weight", kv, o.hidden, 3 * in});
    tensors.push_back({p + "attn_v.weight", kv, o.hidden, in});
    if (o.family->qkv_bias) {
      tensors.push_back({p + "attn_q.bias", 1, q, 1.0f});
      tensors.push_back({p + "attn_k.bias", 1, kv, 1.0f});
      tensors.push_back({p + "attn_v.bias", 1, kv, 1.0f});
    }
    tensors.push_back({p + "attn_output.weight", o.hidden, q, in});
    tensors.push_back({p + "ffn_norm.weight", 1, o.hidden, 0.0f});
    tensors.push_back({p + "ffn_gate.weight", o.ffn_hidden, o.hidden, in});
    tensors.push_back({p + "ffn_up.weight", o.ffn_hidden, o.hidden, in});
    tensors.push_back({p + "ffn_down.weight", o.hidden, o.ffn_hidden, in});
  }
  return tensors;
}

// GPT-2's printable stand-in for each byte, as UTF-8.
std::string ByteSymbol(int byte) {
  static const std::vector<int> kCodePoints = [] {
    std::vector<int> points(256, 0);
    int next = 256;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
      points[b] = printable ? b : next++;
    }
    return points;
  }();
  const int c = kCodePoints[byte];
  if (c < 0x80) return std::string(1, static_cast<char>(c));
  return {static_cast<char>(0xc0 | (c >> 6)), static_cast<char>(0x80 | (c & 63))};
}

void PutTokenizer(GgufBytes& out) {
  out.Key("tokenizer.ggml.model", kString);
  out.PutString("gpt2");
  out.Key("tokenizer.ggml.pre", kString);
  out.PutString("smollm");
  out.Key("tokenizer.ggml.tokens", kArray);
  out.Put<uint32_t>(kString);
  out.Put<uint64_t>(kTinyVocab);
  const std::vector<std::string> control = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  for (int i = 0; i < 16; ++i) {
    out.PutString(i < 3 ? control[i] : "<reserved_" + std::to_string(i) + ">");
  }
  for (int byte = 0; byte < 256; ++byte) out.PutString(ByteSymbol(byte));
  out.Key("tokenizer.ggml.token_type", kArray);
  out.Put<uint32_t>(kInt32);
  out.Put<uint64_t>(kTinyVocab);
  for (int i = 0; i < kTinyVocab; ++i) out.Put<int32_t>(i < 16 ? 3 : 1);
  out.Key("tokenizer.ggml.merges", kArray);
  out.Put<uint32_t>(kString);
  out.Put<uint64_t>(0);
  for (const auto& [key, id] : {std::pair{"bos", 1u}, {"eos", 2u}, {"unknown", 0u}}) {
    out.Key(std::string("tokenizer.ggml.") + key + "_token_id", kUint32);
    out.Put<uint32_t>(id);
  }
  out.Key("tokenizer.ggml.add_bos_token", kBool);
  out.Put<uint8_t>(0);
  out.Key("tokenizer.chat_template", kString);
  out.PutString(
      "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + "
      "message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}"
      "{{ '<|im_start|>assistant\\n' }}{% endif %}");
}
constexpr uint64_t kTokenizerKeys = 10;

void PutHyperparameters(const TinyModelOptions& o, GgufBytes& out) {
  out.Key("general.architecture", kString);
  const std::string family(o.family->gguf);
  out.PutString(family);
  out.Key("general.name", kString);
  out.PutString("tiny");
  const std::vector<std::pair<std::string, int64_t>> ints = {
      {"block_count", o.layers},          {"context_length", o.context_tokens},
      {"embedding_length", o.hidden},     {"feed_forward_length", o.ffn_hidden},
      {"attention.head_count", o.q_heads}, {"attention.head_count_kv", o.kv_heads},
      {"rope.dimension_count", o.hidden / o.q_heads}, {"vocab_size", kTinyVocab}};
  for (const auto& [name, value] : ints) {
    out.Key(family + "." + name, kUint32);
    out.Put<uint32_t>(static_cast<uint32_t>(value));
  }
  out.Key(family + ".rope.freq_base", kFloat32);
  out.Put<float>(10000.0f);
  out.Key(family + ".attention.layer_norm_rms_epsilon", kFloat32);
  out.Put<float>(1e-5f);
}
constexpr uint64_t kHyperparameterKeys = 12;

}  // namespace

void WriteTinyModel(const std::filesystem::path& path, const TinyModelOptions& options) {
  const std::vector<Tensor> tensors = Tensors(options);
  GgufBytes out;
  out.Put<uint32_t>(0x46554747);  // "GGUF"
  out.Put<uint32_t>(3);
  out.Put<uint64_t>(tensors.size());
  out.Put<uint64_t>(kHyperparameterKeys + kTokenizerKeys);
  PutHyperparameters(options, out);
  PutTokenizer(out);
  uint64_t offset = 0;
  for (const Tensor& t : tensors) {
    out.PutString(t.name);
    out.Put<uint32_t>(t.rows == 1 ? 1 : 2);
    out.Put<uint64_t>(static_cast<uint64_t>(t.cols));
    if (t.rows > 1) out.Put<uint64_t>(static_cast<uint64_t>(t.rows));
    out.Put<uint32_t>(kTensorF32);
    out.Put<uint64_t>(offset);
    offset += (t.rows * t.cols * sizeof(float) + kAlignment - 1) / kAlignment * kAlignment;
  }
  out.Align();
  std::mt19937_64 random(options.seed);
  for (const Tensor& t : tensors) {
    std::normal_distribution<float> normal(0.0f, t.scale > 0 ? t.scale : 1.0f);
    for (int64_t i = 0; i < t.rows * t.cols; ++i) out.Put(t.scale > 0 ? normal(random) : 1.0f);
    out.Align();
  }
  std::ofstream file(path, std::ios::binary);
  file.write(out.bytes().data(), static_cast<std::streamsize>(out.bytes().size()));
  TS_CHECK(file.good());
}

ScratchDir::ScratchDir() {
  std::string pattern = (std::filesystem::temp_directory_path() / "tailor_test_XXXXXX").string();
  TS_CHECK(mkdtemp(pattern.data()) != nullptr);
  path_ = pattern;
}

ScratchDir::~ScratchDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace tailor
