// The policy file: JSON, every field named, unknown fields refused.
#include <fstream>
#include <iterator>
#include <set>

#include "common/status.h"
#include "nlohmann/json.hpp"
#include "worker/policy/evidence_json.h"
#include "worker/policy/layer_policy.h"

namespace tailor {
namespace {

using nlohmann::json;

constexpr int64_t kMaxPolicyFileBytes = 1 << 20;

absl::Status FieldError(const char* field, const char* wanted) {
  return absl::InvalidArgumentError(absl::StrCat("policy field ", field, " is not ", wanted));
}

absl::Status ReadInt(const json& object, const char* field, int32_t* out) {
  if (!object.contains(field)) return absl::OkStatus();
  const json& value = object[field];
  if (!value.is_number_integer() || value.get<int64_t>() != value.get<int32_t>()) {
    return FieldError(field, "a 32-bit integer");
  }
  *out = value.get<int32_t>();
  return absl::OkStatus();
}

absl::Status ReadFloat(const json& object, const char* field, float* out) {
  if (!object.contains(field)) return absl::OkStatus();
  if (!object[field].is_number()) return FieldError(field, "a number");
  *out = object[field].get<float>();
  return absl::OkStatus();
}

template <typename Enum>
absl::Status ReadChoice(const json& object, const char* field, const char* first, Enum first_value,
                        const char* second, Enum second_value, Enum* out) {
  if (!object.contains(field)) return absl::OkStatus();
  if (object[field] == first) {
    *out = first_value;
  } else if (object[field] == second) {
    *out = second_value;
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("policy field ", field, " is neither \"", first, "\" nor \"", second, "\""));
  }
  return absl::OkStatus();
}

absl::Status ReadSelector(const json& object, Selector* out) {
  if (!object.contains("selector")) return absl::OkStatus();
  for (const Selector selector :
       {Selector::kInline, Selector::kStore, Selector::kSketch, Selector::kDevice}) {
    if (object["selector"] == ToString(selector)) {
      *out = selector;
      return absl::OkStatus();
    }
  }
  return FieldError("selector", "one of \"inline\", \"store\", \"sketch\", \"device\"");
}

absl::Status RefuseUnknownFields(const json& object) {
  static const std::set<std::string> kKnown = {"version",
                                               "model_name",
                                               "weights",
                                               "quantized_layers",
                                               "bits",
                                               "residual_tokens",
                                               "sink_tokens",
                                               "recent_tokens",
                                               "channels",
                                               "top_k",
                                               "group",
                                               "rescore_extra",
                                               "layer_top_k",
                                               "selector",
                                               "query",
                                               "predict_norm",
                                               "check_every_tokens",
                                               "mass_floor",
                                               "evidence",
                                               "row_cache_rows",
                                               "tail",
                                               "tail_gain"};
  for (const auto& item : object.items()) {
    if (!kKnown.contains(item.key())) {
      return absl::InvalidArgumentError(absl::StrCat("policy field ", item.key(), " is unknown"));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadIdentity(const json& object, LayerPolicy* policy) {
  if (!object.contains("version") || object["version"] != LayerPolicy::kVersion) {
    return absl::InvalidArgumentError(
        absl::StrCat("policy version is not ", LayerPolicy::kVersion));
  }
  if (object.contains("model_name")) {
    if (!object["model_name"].is_string()) return FieldError("model_name", "a string");
    policy->model_name = object["model_name"].get<std::string>();
  }
  if (!object.contains("weights") || !object["weights"].is_string()) {
    return FieldError("weights", "a fingerprint of 64 hexadecimal digits");
  }
  TS_ASSIGN_OR_RETURN(policy->weights,
                      Fingerprint::FromHex(object["weights"].get_ref<const std::string&>()));
  return absl::OkStatus();
}

// A string is a note by hand; an object is what `tailor calibrate` measured with the policy's
// numbers, which are read by now.
absl::Status ReadEvidence(const json& object, LayerPolicy* policy) {
  const auto evidence = object.find("evidence");
  if (evidence == object.end()) return absl::OkStatus();
  if (evidence->is_string()) {
    policy->note = evidence->get<std::string>();
    return absl::OkStatus();
  }
  if (!evidence->is_object()) return FieldError("evidence", "a string or an object");
  TS_ASSIGN_OR_RETURN(auto read, EvidenceFromJson(*evidence));
  policy->calibration = std::make_shared<const CalibrationEvidence>(std::move(read));
  const Fingerprint now = policy->fingerprint(), then = policy->calibration->policy;
  if (then == now) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("policy field evidence was measured with policy ", then.ToHex().substr(0, 16),
                   ", the file's numbers make ", now.ToHex().substr(0, 16),
                   ": calibrate again, or remove the evidence"));
}

// An array of numbers from 0 to 4096: layers, or rows.
absl::Status ReadNumbers(const json& object, const char* field, std::vector<int32_t>* out) {
  if (!object.contains(field) || !object[field].is_array()) {
    return FieldError(field, "an array of numbers");
  }
  for (const json& number : object[field]) {
    if (!number.is_number_integer() || number.get<int64_t>() < 0 || number.get<int64_t>() > 4096) {
      return FieldError(field, "an array of numbers from 0 to 4096");
    }
    out->push_back(number.get<int32_t>());
  }
  return absl::OkStatus();
}

}  // namespace

std::string LayerPolicy::ToJson() const {
  json object = {
      {"version", kVersion},
      {"model_name", model_name},
      {"weights", weights.ToHex()},
      {"quantized_layers", quantized_layers},
      {"bits", bits},
      {"residual_tokens", residual_tokens},
      {"sink_tokens", sink_tokens},
      {"recent_tokens", recent_tokens},
      {"channels", select.channels},
      {"top_k", select.top_k},
      {"group", select.group == GroupRule::kMean ? "mean" : "heads"},
      {"rescore_extra", select.rescore_extra},
      {"layer_top_k", layer_top_k},
      {"tail", tail == Tail::kNone ? "none" : "page_means"},
      {"tail_gain", tail_gain},
      {"selector", ToString(selector)},
      {"row_cache_rows", row_cache_rows},
      {"query", query == QueryMode::kExact ? "exact" : "predicted"},
      {"predict_norm", predict_norm == PredictNorm::kCurrent ? "current" : "next"},
      {"check_every_tokens", check_every_tokens},
      {"mass_floor", mass_floor},
  };
  if (!note.empty()) object["evidence"] = note;
  if (calibration != nullptr) object["evidence"] = EvidenceToJson(*calibration);
  // Names come from other files: what is no UTF-8 in them must not end the program.
  return object.dump(2, ' ', /*ensure_ascii=*/false, json::error_handler_t::replace) + "\n";
}

absl::StatusOr<LayerPolicy> LayerPolicy::FromJson(std::string_view text) {
  const json object = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return absl::InvalidArgumentError("policy is not a JSON object");
  TS_RETURN_IF_ERROR(RefuseUnknownFields(object));
  LayerPolicy policy;
  // What a file older than these fields meant: the published selection.
  policy.select.channels = 8;
  policy.select.group = GroupRule::kMean;
  policy.select.rescore_extra = 0;
  policy.tail = Tail::kNone;
  TS_RETURN_IF_ERROR(ReadIdentity(object, &policy));
  TS_RETURN_IF_ERROR(ReadNumbers(object, "quantized_layers", &policy.quantized_layers));
  if (object.contains("layer_top_k")) {
    TS_RETURN_IF_ERROR(ReadNumbers(object, "layer_top_k", &policy.layer_top_k));
  }
  TS_RETURN_IF_ERROR(ReadInt(object, "bits", &policy.bits));
  TS_RETURN_IF_ERROR(ReadInt(object, "residual_tokens", &policy.residual_tokens));
  TS_RETURN_IF_ERROR(ReadInt(object, "sink_tokens", &policy.sink_tokens));
  TS_RETURN_IF_ERROR(ReadInt(object, "recent_tokens", &policy.recent_tokens));
  TS_RETURN_IF_ERROR(ReadInt(object, "channels", &policy.select.channels));
  TS_RETURN_IF_ERROR(ReadInt(object, "top_k", &policy.select.top_k));
  TS_RETURN_IF_ERROR(ReadChoice(object, "group", "mean", GroupRule::kMean, "heads",
                                GroupRule::kHeads, &policy.select.group));
  TS_RETURN_IF_ERROR(ReadInt(object, "rescore_extra", &policy.select.rescore_extra));
  TS_RETURN_IF_ERROR(ReadChoice(object, "tail", "none", Tail::kNone, "page_means", Tail::kPageMeans,
                                &policy.tail));
  TS_RETURN_IF_ERROR(ReadFloat(object, "tail_gain", &policy.tail_gain));
  TS_RETURN_IF_ERROR(ReadSelector(object, &policy.selector));
  TS_RETURN_IF_ERROR(ReadInt(object, "row_cache_rows", &policy.row_cache_rows));
  TS_RETURN_IF_ERROR(ReadChoice(object, "query", "exact", QueryMode::kExact, "predicted",
                                QueryMode::kPredicted, &policy.query));
  TS_RETURN_IF_ERROR(ReadChoice(object, "predict_norm", "current", PredictNorm::kCurrent, "next",
                                PredictNorm::kNext, &policy.predict_norm));
  TS_RETURN_IF_ERROR(ReadInt(object, "check_every_tokens", &policy.check_every_tokens));
  TS_RETURN_IF_ERROR(ReadFloat(object, "mass_floor", &policy.mass_floor));
  policy.select.sink_tokens = policy.sink_tokens;
  TS_RETURN_IF_ERROR(ReadEvidence(object, &policy));
  return policy;
}

absl::StatusOr<LayerPolicy> LayerPolicy::Load(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat("policy file ", path.string(), " not found"));
  std::error_code error;
  const auto bytes = std::filesystem::file_size(path, error);
  if (error || bytes > static_cast<uintmax_t>(kMaxPolicyFileBytes)) {
    return absl::InvalidArgumentError(absl::StrCat("policy file ", path.string(),
                                                   " is larger than ", kMaxPolicyFileBytes,
                                                   " bytes or unreadable"));
  }
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  auto policy = FromJson(text);
  if (!policy.ok()) {
    return absl::Status(policy.status().code(),
                        absl::StrCat(path.string(), ": ", std::string(policy.status().message())));
  }
  return policy;
}

}  // namespace tailor
