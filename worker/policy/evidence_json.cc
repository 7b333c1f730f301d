#include "worker/policy/evidence_json.h"

#include <functional>

#include "common/status.h"
#include "worker/policy/json_fields.h"

namespace tailor {
namespace {

using nlohmann::json;

constexpr char kPath[] = "policy field evidence";
constexpr size_t kMaxTextBytes = 1024, kMaxTexts = 256, kMaxLayers = 4096, kMaxTried = 1024;
constexpr int64_t kMaxCount = int64_t{1} << 30, kMaxBytes = int64_t{1} << 50;
constexpr double kMaxNats =
    1e6;  // of a KL or a log of a ratio: far beyond what a vocabulary allows

template <typename T>
json OrNull(const std::optional<T>& value) {
  return value ? json(*value) : json(nullptr);
}

json ToJson(const std::vector<CalibrationEvidence::Text>& texts) {
  json out = json::array();
  for (const auto& text : texts) {
    out.push_back({{"name", text.name}, {"sha256", text.sha256.ToHex()}});
  }
  return out;
}

json ToJson(const CalibrationEvidence::Quality& quality) {
  json recall = json::array();
  for (const auto& layer : quality.recall) recall.push_back(OrNull(layer));
  return {{"kl_nats_per_token", quality.kl},
          {"kl_standard_error", OrNull(quality.kl_error)},
          {"top1_agreement", quality.agreement},
          {"perplexity_ratio", quality.perplexity_ratio},
          {"recall", recall}};
}

json ToJson(const CalibrationEvidence::Tried& tried) {
  return {{"step", tried.step},
          {"configuration", tried.configuration},
          {"fetched_bytes_per_token", tried.fetched_bytes},
          {"device_bytes", tried.device_bytes},
          {"kl_nats_per_token", tried.kl},
          {"perplexity_ratio", tried.perplexity_ratio},
          {"recall", tried.recall}};
}

// Every element of an array of objects, each by `read`.
absl::Status ReadEach(JsonFields& fields, const char* field, size_t max_length,
                      const std::function<absl::Status(JsonFields&)>& read) {
  TS_ASSIGN_OR_RETURN(const json* array, fields.ReadArray(field, max_length));
  for (size_t i = 0; i < array->size(); ++i) {
    JsonFields element((*array)[i], absl::StrCat(kPath, ".", field, "[", i, "]"));
    TS_RETURN_IF_ERROR(read(element));
    TS_RETURN_IF_ERROR(element.Finish());
  }
  return absl::OkStatus();
}

absl::Status ReadTexts(JsonFields& fields, const char* field,
                       std::vector<CalibrationEvidence::Text>* out) {
  return ReadEach(fields, field, kMaxTexts, [&](JsonFields& element) {
    CalibrationEvidence::Text& text = out->emplace_back();
    TS_RETURN_IF_ERROR(element.ReadText("name", kMaxTextBytes, &text.name));
    return element.ReadFingerprint("sha256", &text.sha256);
  });
}

absl::Status ReadScores(JsonFields& fields, std::vector<double>* out) {
  TS_ASSIGN_OR_RETURN(const json* array, fields.ReadArray("dense_preference", kMaxLayers));
  for (const json& score : *array) {
    TS_RETURN_IF_ERROR(JsonFields::ToNumber(score, absl::StrCat(kPath, ".dense_preference"), 0, 1,
                                            &out->emplace_back()));
  }
  return absl::OkStatus();
}

absl::Status ReadQuality(JsonFields& parent, const char* field, CalibrationEvidence::Quality* out) {
  TS_ASSIGN_OR_RETURN(JsonFields fields, parent.ReadObject(field));
  TS_RETURN_IF_ERROR(fields.ReadNumber("kl_nats_per_token", -kMaxNats, kMaxNats, &out->kl));
  TS_RETURN_IF_ERROR(fields.ReadOptionalNumber("kl_standard_error", 0, kMaxNats, &out->kl_error));
  TS_RETURN_IF_ERROR(fields.ReadNumber("top1_agreement", 0, 1, &out->agreement));
  TS_RETURN_IF_ERROR(fields.ReadNumber("perplexity_ratio", 0, kMaxNats, &out->perplexity_ratio));
  TS_ASSIGN_OR_RETURN(const json* recall, fields.ReadArray("recall", kMaxLayers));
  for (const json& layer : *recall) {
    std::optional<double>& value = out->recall.emplace_back();
    if (layer.is_null()) continue;
    TS_RETURN_IF_ERROR(JsonFields::ToNumber(layer, absl::StrCat(kPath, ".", field, ".recall"), 0, 1,
                                            &value.emplace()));
  }
  return fields.Finish();
}

absl::Status ReadTried(JsonFields& fields, std::vector<CalibrationEvidence::Tried>* out) {
  return ReadEach(fields, "tried", kMaxTried, [&](JsonFields& element) {
    CalibrationEvidence::Tried& tried = out->emplace_back();
    TS_RETURN_IF_ERROR(element.ReadText("step", kMaxTextBytes, &tried.step));
    TS_RETURN_IF_ERROR(element.ReadText("configuration", kMaxTextBytes, &tried.configuration));
    TS_RETURN_IF_ERROR(
        element.ReadInt("fetched_bytes_per_token", 0, kMaxBytes, &tried.fetched_bytes));
    TS_RETURN_IF_ERROR(element.ReadInt("device_bytes", 0, kMaxBytes, &tried.device_bytes));
    TS_RETURN_IF_ERROR(element.ReadNumber("kl_nats_per_token", -kMaxNats, kMaxNats, &tried.kl));
    TS_RETURN_IF_ERROR(
        element.ReadNumber("perplexity_ratio", 0, kMaxNats, &tried.perplexity_ratio));
    return element.ReadNumber("recall", 0, 1, &tried.recall);
  });
}

absl::Status ReadSettings(JsonFields& fields, CalibrationEvidence* out) {
  TS_RETURN_IF_ERROR(fields.ReadText("tool", kMaxTextBytes, &out->tool));
  TS_RETURN_IF_ERROR(fields.ReadText("simd", kMaxTextBytes, &out->simd));
  TS_RETURN_IF_ERROR(fields.ReadFingerprint("policy", &out->policy));
  TS_RETURN_IF_ERROR(ReadTexts(fields, "texts", &out->texts));
  TS_RETURN_IF_ERROR(ReadTexts(fields, "held_out_texts", &out->held_out_texts));
  TS_RETURN_IF_ERROR(fields.ReadInt("context_tokens", 1, kMaxCount, &out->context_tokens));
  TS_RETURN_IF_ERROR(fields.ReadInt("decode_tokens", 1, kMaxCount, &out->decode_tokens));
  TS_RETURN_IF_ERROR(fields.ReadInt("windows", 1, kMaxCount, &out->windows));
  TS_RETURN_IF_ERROR(fields.ReadInt("last_queries", 1, kMaxCount, &out->last_queries));
  TS_RETURN_IF_ERROR(
      fields.ReadInt("max_quantized_layers", 0, kMaxCount, &out->max_quantized_layers));
  TS_RETURN_IF_ERROR(fields.ReadNumber("alpha", 0, 1, &out->alpha));
  TS_RETURN_IF_ERROR(fields.ReadNumber("score_threshold", 0, 1, &out->score_threshold));
  TS_RETURN_IF_ERROR(
      fields.ReadOptionalInt("max_device_bytes", 0, kMaxBytes, &out->max_device_bytes));
  TS_RETURN_IF_ERROR(
      fields.ReadOptionalInt("max_fetched_bytes_per_token", 0, kMaxBytes, &out->max_fetched_bytes));
  return fields.ReadOptionalNumber("max_kl_nats_per_token", 0, kMaxNats, &out->max_kl);
}

}  // namespace

json EvidenceToJson(const CalibrationEvidence& evidence) {
  json tried = json::array();
  for (const auto& entry : evidence.tried) tried.push_back(ToJson(entry));
  return {{"version", CalibrationEvidence::kVersion},
          {"tool", evidence.tool},
          {"simd", evidence.simd},
          {"policy", evidence.policy.ToHex()},
          {"texts", ToJson(evidence.texts)},
          {"held_out_texts", ToJson(evidence.held_out_texts)},
          {"context_tokens", evidence.context_tokens},
          {"decode_tokens", evidence.decode_tokens},
          {"windows", evidence.windows},
          {"last_queries", evidence.last_queries},
          {"max_quantized_layers", evidence.max_quantized_layers},
          {"alpha", evidence.alpha},
          {"score_threshold", evidence.score_threshold},
          {"dense_preference", evidence.scores},
          {"max_device_bytes", OrNull(evidence.max_device_bytes)},
          {"max_fetched_bytes_per_token", OrNull(evidence.max_fetched_bytes)},
          {"max_kl_nats_per_token", OrNull(evidence.max_kl)},
          {"fetched_bytes_per_token", evidence.fetched_bytes},
          {"device_bytes", evidence.device_bytes},
          {"held_out", ToJson(evidence.held_out)},
          {"default_held_out", ToJson(evidence.default_held_out)},
          {"tried", tried}};
}

absl::StatusOr<CalibrationEvidence> EvidenceFromJson(const json& object) {
  JsonFields fields(object, kPath);
  CalibrationEvidence evidence;
  int64_t version = 0;
  TS_RETURN_IF_ERROR(fields.ReadInt("version", CalibrationEvidence::kVersion,
                                    CalibrationEvidence::kVersion, &version));
  TS_RETURN_IF_ERROR(ReadSettings(fields, &evidence));
  TS_RETURN_IF_ERROR(ReadScores(fields, &evidence.scores));
  TS_RETURN_IF_ERROR(
      fields.ReadInt("fetched_bytes_per_token", 0, kMaxBytes, &evidence.fetched_bytes));
  TS_RETURN_IF_ERROR(fields.ReadInt("device_bytes", 0, kMaxBytes, &evidence.device_bytes));
  TS_RETURN_IF_ERROR(ReadQuality(fields, "held_out", &evidence.held_out));
  TS_RETURN_IF_ERROR(ReadQuality(fields, "default_held_out", &evidence.default_held_out));
  TS_RETURN_IF_ERROR(ReadTried(fields, &evidence.tried));
  TS_RETURN_IF_ERROR(fields.Finish());
  return evidence;
}

}  // namespace tailor
