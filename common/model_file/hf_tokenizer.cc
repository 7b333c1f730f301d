#include "common/model_file/hf_tokenizer.h"

#include <array>
#include <string>
#include <utility>

#include "common/model_file/json_fields.h"
#include "common/status.h"

namespace tailor {
namespace {

using nlohmann::json;

constexpr int64_t kMaxTokens = 1 << 24;

constexpr std::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr std::string_view kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

std::string TypeOf(const json* object) {
  if (object == nullptr) return "none";
  const json* type = FindField(*object, "type");
  return type != nullptr && type->is_string() ? type->get<std::string>() : "none";
}

bool IsTrue(const json& object, const char* key) {
  const json* value = FindField(object, key);
  return value != nullptr && value->is_boolean() && value->get<bool>();
}

bool IsByteLevel(const json& step, bool use_regex) {
  const json* regex = FindField(step, "use_regex");  // true when absent
  const bool uses = regex == nullptr || (regex->is_boolean() && regex->get<bool>());
  return TypeOf(&step) == "ByteLevel" && uses == use_regex && !IsTrue(step, "add_prefix_space");
}

bool IsDigits(const json& step) {
  return TypeOf(&step) == "Digits" && IsTrue(step, "individual_digits");
}

bool IsSplit(const json& step, std::string_view by) {
  const json* pattern = FindField(step, "pattern");
  const json* regex = pattern == nullptr ? nullptr : FindField(*pattern, "Regex");
  const json* behavior = FindField(step, "behavior");
  return TypeOf(&step) == "Split" && regex != nullptr && regex->is_string() &&
         regex->get_ref<const std::string&>() == by && behavior != nullptr &&
         *behavior == "Isolated" && !IsTrue(step, "invert");
}

absl::StatusOr<std::string> PreTokenizerName(const json* pre) {
  if (pre != nullptr && IsByteLevel(*pre, true)) return "gpt-2";
  const json* steps = TypeOf(pre) == "Sequence" ? FindField(*pre, "pretokenizers") : nullptr;
  if (steps != nullptr && steps->is_array() && steps->size() == 2) {
    const json &first = (*steps)[0], &second = (*steps)[1];
    if (IsDigits(first) && IsByteLevel(second, true)) return "smollm";
    if (IsSplit(first, kLlama3Pattern) && IsByteLevel(second, false)) return "llama-bpe";
    if (IsSplit(first, kQwen2Pattern) && IsByteLevel(second, false)) return "qwen2";
  }
  return absl::UnimplementedError(
      absl::StrCat("tokenizer.json has a pre_tokenizer (", TypeOf(pre),
                   ") that is none of GPT-2's, SmolLM's, Llama 3's and Qwen2's"));
}

// The table grows to the largest id; holes are kUnused.
absl::Status SetToken(TokenizerSpec& spec, const std::string& text, const json& id,
                      TokenKind kind) {
  if (!id.is_number_unsigned() || id.get<uint64_t>() >= kMaxTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("token \"", text, "\" has an id that is no integer below ", kMaxTokens));
  }
  const auto index = id.get<size_t>();
  if (index >= spec.tokens.size()) {
    spec.tokens.resize(index + 1);
    spec.kinds.resize(index + 1, TokenKind::kUnused);
  }
  const bool is_new = spec.kinds[index] == TokenKind::kUnused;
  if (!is_new && spec.tokens[index] != text) {
    return absl::InvalidArgumentError(
        absl::StrCat("token ", index, " is both \"", spec.tokens[index], "\" and \"", text, "\""));
  }
  spec.tokens[index] = text;
  spec.kinds[index] = kind;
  return absl::OkStatus();
}

absl::Status ReadVocab(const json& model, TokenizerSpec& spec) {
  const json* vocab = FindField(model, "vocab");
  if (vocab == nullptr || !vocab->is_object()) {
    return absl::InvalidArgumentError("tokenizer.json has no model.vocab object");
  }
  for (const auto& [text, id] : vocab->items()) {
    // Ids of a BPE table are dense but for a few added tokens; a far one would cost memory, not
    // text.
    if (id.is_number_unsigned() && id.get<uint64_t>() >= 2 * vocab->size() + 65536) {
      return absl::InvalidArgumentError(absl::StrCat("token \"", text, "\" has id ",
                                                     id.get<uint64_t>(), " in a vocabulary of ",
                                                     vocab->size()));
    }
    TS_RETURN_IF_ERROR(SetToken(spec, text, id, TokenKind::kNormal));
  }
  return absl::OkStatus();
}

// Either "left right" or ["left", "right"].
absl::StatusOr<std::string> MergeText(const json& merge) {
  if (merge.is_string()) return merge.get<std::string>();
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  }
  return absl::InvalidArgumentError("tokenizer.json has a merge that is no pair of strings");
}

absl::Status ReadMerges(const json& model, TokenizerSpec& spec) {
  const json* merges = FindField(model, "merges");
  if (merges == nullptr || !merges->is_array()) {
    return absl::InvalidArgumentError("tokenizer.json has no model.merges list");
  }
  for (const json& merge : *merges) {
    TS_ASSIGN_OR_RETURN(std::string text, MergeText(merge));
    spec.merges.push_back(std::move(text));
  }
  return absl::OkStatus();
}

// The reference gives such a token the blanks beside it, or finds it between words only. A special
// one is never found in text here.
absl::Status CheckReach(const json& token, const std::string& text) {
  for (const char* key : {"lstrip", "rstrip", "single_word"}) {
    if (!IsTrue(token, key) || IsTrue(token, "special")) continue;
    return absl::UnimplementedError(
        absl::StrCat("added token \"", text, "\" has ", key, " true, supported is false"));
  }
  return absl::OkStatus();
}

absl::Status ReadAddedTokens(const json& root, TokenizerSpec& spec) {
  const json* added = FindField(root, "added_tokens");
  if (added == nullptr) return absl::OkStatus();
  if (!added->is_array()) return absl::InvalidArgumentError("added_tokens is not a list");
  for (const json& token : *added) {
    TS_ASSIGN_OR_RETURN(const auto text, GetString(token, "content"));
    const json* id = FindField(token, "id");
    if (!text || id == nullptr) {
      return absl::InvalidArgumentError("an entry of added_tokens has no content or no id");
    }
    TS_RETURN_IF_ERROR(CheckReach(token, *text));
    // As for the vocabulary: no far ids.
    if (id->is_number_unsigned() && id->get<uint64_t>() > spec.tokens.size() + 65536) {
      return absl::InvalidArgumentError(absl::StrCat("added token \"", *text, "\" has id ",
                                                     id->get<uint64_t>(), ", the table has ",
                                                     spec.tokens.size()));
    }
    const auto kind = IsTrue(token, "special") ? TokenKind::kControl : TokenKind::kUserDefined;
    TS_RETURN_IF_ERROR(SetToken(spec, *text, *id, kind));
  }
  return absl::OkStatus();
}

// A TemplateProcessing whose `single` starts with a special token, alone or in a Sequence.
bool PrependsToken(const json* processor) {
  if (processor == nullptr) return false;
  if (TypeOf(processor) == "Sequence") {
    const json* steps = FindField(*processor, "processors");
    if (steps == nullptr || !steps->is_array()) return false;
    for (const json& step : *steps) {
      if (TypeOf(&step) == "TemplateProcessing" && PrependsToken(&step)) return true;
    }
    return false;
  }
  const json* single = FindField(*processor, "single");
  return TypeOf(processor) == "TemplateProcessing" && single != nullptr && single->is_array() &&
         !single->empty() && FindField((*single)[0], "SpecialToken") != nullptr;
}

absl::Status CheckModel(const json& root, const json* model) {
  if (TypeOf(model) != "BPE") {
    return absl::UnimplementedError(
        absl::StrCat("tokenizer model is ", TypeOf(model), ", supported is byte-level BPE"));
  }
  if (IsTrue(*model, "byte_fallback")) {
    return absl::UnimplementedError(
        "tokenizer falls back to byte tokens; supported is byte-level BPE");
  }
  // NFC is left out: see Tokenizer::Encode.
  const json* normalizer = FindField(root, "normalizer");
  if (normalizer != nullptr && TypeOf(normalizer) != "NFC") {
    return absl::UnimplementedError(absl::StrCat("tokenizer has a normalizer (", TypeOf(normalizer),
                                                 "), supported are none and NFC"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerSpec> ParseHfTokenizer(std::string_view tokenizer_json) {
  TS_ASSIGN_OR_RETURN(const json root, ParseJsonObject(tokenizer_json, "tokenizer.json"));
  const json* model = FindField(root, "model");
  TS_RETURN_IF_ERROR(CheckModel(root, model));
  TokenizerSpec spec;
  TS_ASSIGN_OR_RETURN(spec.pre_tokenizer, PreTokenizerName(FindField(root, "pre_tokenizer")));
  spec.ignore_merges = IsTrue(*model, "ignore_merges");
  TS_RETURN_IF_ERROR(ReadVocab(*model, spec));
  TS_RETURN_IF_ERROR(ReadMerges(*model, spec));
  TS_RETURN_IF_ERROR(ReadAddedTokens(root, spec));
  spec.add_bos = PrependsToken(FindField(root, "post_processor"));
  return spec;
}

}  // namespace tailor
