#include "common/model_file/llama_tensors.h"

#include <array>
#include <set>
#include <vector>

#include "common/status.h"

namespace tailor {
namespace {

struct Expected {
  std::string name;
  int64_t rows;
  int64_t cols;
};

std::vector<Expected> ExpectedTensors(const LlamaHyperparameters& m) {
  const int64_t q = int64_t{m.q_heads} * m.head_dim, kv = int64_t{m.kv_heads} * m.head_dim;
  std::vector<Expected> all = {{"token_embd.weight", m.vocab, m.hidden},
                               {"output_norm.weight", 1, m.hidden}};
  if (!m.tied_embedding) all.push_back({"output.weight", m.vocab, m.hidden});
  for (int32_t layer = 0; layer < m.layers; ++layer) {
    const std::string p = absl::StrCat("blk.", layer, ".");
    all.push_back({p + "attn_norm.weight", 1, m.hidden});
    all.push_back({p + "attn_q.weight", q, m.hidden});
    all.push_back({p + "attn_k.weight", kv, m.hidden});
    all.push_back({p + "attn_v.weight", kv, m.hidden});
    if (m.qkv_bias) {
      all.push_back({p + "attn_q.bias", 1, q});
      all.push_back({p + "attn_k.bias", 1, kv});
      all.push_back({p + "attn_v.bias", 1, kv});
    }
    all.push_back({p + "attn_output.weight", m.hidden, q});
    all.push_back({p + "ffn_norm.weight", 1, m.hidden});
    all.push_back({p + "ffn_gate.weight", m.ffn_hidden, m.hidden});
    all.push_back({p + "ffn_up.weight", m.ffn_hidden, m.hidden});
    all.push_back({p + "ffn_down.weight", m.hidden, m.ffn_hidden});
  }
  return all;
}

absl::Status CheckOne(const Expected& want, const TensorView& got) {
  if (got.rows != want.rows || got.cols != want.cols) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", want.name, " is ", got.rows, " x ",
                                                   got.cols, ", the hyperparameters imply ",
                                                   want.rows, " x ", want.cols));
  }
  if (want.rows == 1 && BlockValues(got.dtype) != 1) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", want.name, " is ",
                                                   std::string(DTypeName(got.dtype)),
                                                   ", a norm or bias must be F32, F16 or BF16"));
  }
  return absl::OkStatus();
}

struct NamePair {
  std::string_view hugging_face, canonical;
};

constexpr std::array<NamePair, 3> kModelNames = {
    {{"model.embed_tokens.weight", "token_embd.weight"},
     {"model.norm.weight", "output_norm.weight"},
     {"lm_head.weight", "output.weight"}}};
constexpr std::array<NamePair, 12> kLayerNames = {
    {{"input_layernorm.weight", "attn_norm.weight"},
     {"self_attn.q_proj.weight", "attn_q.weight"},
     {"self_attn.k_proj.weight", "attn_k.weight"},
     {"self_attn.v_proj.weight", "attn_v.weight"},
     {"self_attn.q_proj.bias", "attn_q.bias"},
     {"self_attn.k_proj.bias", "attn_k.bias"},
     {"self_attn.v_proj.bias", "attn_v.bias"},
     {"self_attn.o_proj.weight", "attn_output.weight"},
     {"post_attention_layernorm.weight", "ffn_norm.weight"},
     {"mlp.gate_proj.weight", "ffn_gate.weight"},
     {"mlp.up_proj.weight", "ffn_up.weight"},
     {"mlp.down_proj.weight", "ffn_down.weight"}}};

}  // namespace

absl::Status ValidateTensors(const LlamaHyperparameters& model,
                             const std::map<std::string, TensorView, std::less<>>& tensors) {
  const std::vector<Expected> expected = ExpectedTensors(model);
  for (const Expected& want : expected) {
    const auto found = tensors.find(want.name);
    if (found == tensors.end()) {
      return absl::NotFoundError(absl::StrCat("tensor ", want.name, " is missing; the model has ",
                                              tensors.size(), " tensors, needs ", expected.size()));
    }
    TS_RETURN_IF_ERROR(CheckOne(want, found->second));
  }
  if (tensors.size() == expected.size()) return absl::OkStatus();
  std::set<std::string_view> known;
  for (const Expected& want : expected) known.insert(want.name);
  for (const auto& [name, tensor] : tensors) {
    if (known.contains(name)) continue;
    return absl::UnimplementedError(
        absl::StrCat("tensor ", name,
                     " is no part of a model of this family; running without it would "
                     "give wrong answers"));
  }
  return absl::OkStatus();
}

std::optional<std::string> CanonicalFromHuggingFace(std::string_view name) {
  for (const NamePair& pair : kModelNames) {
    if (name == pair.hugging_face) return std::string(pair.canonical);
  }
  constexpr std::string_view kPrefix = "model.layers.";
  if (!name.starts_with(kPrefix)) return std::nullopt;
  name.remove_prefix(kPrefix.size());
  const size_t dot = name.find('.');
  const std::string_view number = name.substr(0, dot);
  if (dot == std::string_view::npos || number.empty() || number.size() > 4 ||
      number.find_first_not_of("0123456789") != std::string_view::npos ||
      (number.size() > 1 && number[0] == '0')) {
    return std::nullopt;
  }
  for (const NamePair& pair : kLayerNames) {
    if (name.substr(dot + 1) == pair.hugging_face) {
      return "blk." + std::string(number) + "." + std::string(pair.canonical);
    }
  }
  return std::nullopt;
}

}  // namespace tailor
