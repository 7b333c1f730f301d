#include "common/model_file/json_fields.h"

#include <limits>

#include "common/status.h"

namespace tailor {
namespace {

using nlohmann::json;

absl::Status TypeError(const char* key, const json& value, const char* want) {
  // Bad UTF-8 in the value is replaced, not thrown at us.
  std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace);
  if (text.size() > 80) text = text.substr(0, 77) + "...";
  return absl::InvalidArgumentError(absl::StrCat(key, " is ", text, ", must be ", want));
}

}  // namespace

absl::StatusOr<json> ParseJsonObject(std::string_view text, const std::string& what) {
  bool too_deep = false;
  const auto watch = [&](int depth, json::parse_event_t, json&) {
    too_deep = too_deep || depth > kMaxJsonDepth;
    return !too_deep;
  };
  json parsed = json::parse(text, watch, /*allow_exceptions=*/false);
  if (too_deep) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " is nested deeper than ", kMaxJsonDepth, " levels"));
  }
  if (parsed.is_object()) return parsed;
  return absl::InvalidArgumentError(
      absl::StrCat(what, parsed.is_discarded() ? " is not valid JSON" : " is not a JSON object"));
}

const json* FindField(const json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return nullptr;
  return &*found;
}

absl::StatusOr<std::optional<int64_t>> GetInt(const json& object, const char* key) {
  const json* value = FindField(object, key);
  if (value == nullptr) return std::nullopt;
  constexpr auto kMax = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  if (!value->is_number_integer() ||
      (value->is_number_unsigned() && value->get<uint64_t>() > kMax)) {
    return TypeError(key, *value, "a 64-bit integer");
  }
  return value->get<int64_t>();
}

absl::StatusOr<std::optional<double>> GetNumber(const json& object, const char* key) {
  const json* value = FindField(object, key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number()) return TypeError(key, *value, "a number");
  return value->get<double>();
}

absl::StatusOr<std::optional<bool>> GetBool(const json& object, const char* key) {
  const json* value = FindField(object, key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) return TypeError(key, *value, "true or false");
  return value->get<bool>();
}

absl::StatusOr<std::optional<std::string>> GetString(const json& object, const char* key) {
  const json* value = FindField(object, key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) return TypeError(key, *value, "a string");
  return value->get<std::string>();
}

}  // namespace tailor
