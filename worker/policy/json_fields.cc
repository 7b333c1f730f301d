#include "worker/policy/json_fields.h"

#include <limits>

#include "common/status.h"

namespace tailor {

using nlohmann::json;

absl::StatusOr<const json*> JsonFields::Find(const char* field) {
  if (!object_.is_object()) return absl::InvalidArgumentError(path_ + " is not a JSON object");
  read_.insert(field);
  const auto at = object_.find(field);
  if (at == object_.end()) return absl::InvalidArgumentError(Name(field) + " is missing");
  return &*at;
}

absl::Status JsonFields::ToNumber(const json& value, const std::string& name, double low,
                                  double high, double* out) {
  if (!value.is_number()) return absl::InvalidArgumentError(name + " is not a number");
  *out = value.get<double>();
  if (*out >= low && *out <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(name, " is ", *out, ", limit ", low, "..", high));
}

absl::Status JsonFields::ReadInt(const char* field, int64_t low, int64_t high, int64_t* out) {
  TS_ASSIGN_OR_RETURN(const json* value, Find(field));
  if (!value->is_number_integer()) {
    return absl::InvalidArgumentError(Name(field) + " is not an integer");
  }
  // A number past int64 is kept unsigned by the parser.
  const bool too_large =
      value->is_number_unsigned() &&
      value->get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  *out = too_large ? std::numeric_limits<int64_t>::max() : value->get<int64_t>();
  if (!too_large && *out >= low && *out <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(Name(field), " is ", value->dump(), ", limit ", low, "..", high));
}

absl::Status JsonFields::ReadNumber(const char* field, double low, double high, double* out) {
  TS_ASSIGN_OR_RETURN(const json* value, Find(field));
  return ToNumber(*value, Name(field), low, high, out);
}

absl::Status JsonFields::ReadOptionalInt(const char* field, int64_t low, int64_t high,
                                         std::optional<int64_t>* out) {
  TS_ASSIGN_OR_RETURN(const json* value, Find(field));
  if (value->is_null()) return absl::OkStatus();
  return ReadInt(field, low, high, &out->emplace());
}

absl::Status JsonFields::ReadOptionalNumber(const char* field, double low, double high,
                                            std::optional<double>* out) {
  TS_ASSIGN_OR_RETURN(const json* value, Find(field));
  if (value->is_null()) return absl::OkStatus();
  return ReadNumber(field, low, high, &out->emplace());
}

absl::Status JsonFields::ReadText(const char* field, size_t max_bytes, std::string* out) {
  TS_ASSIGN_OR_RETURN(const json* value, Find(field));
  if (!value->is_string()) return absl::InvalidArgumentError(Name(field) + " is not a string");
  *out = value->get<std::string>();
  if (out->size() <= max_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(Name(field), " has ", out->size(), " bytes, limit ", max_bytes));
}

absl::Status JsonFields::ReadFingerprint(const char* field, Fingerprint* out) {
  std::string hex;
  TS_RETURN_IF_ERROR(ReadText(field, 64, &hex));
  const auto read = Fingerprint::FromHex(hex);
  if (!read.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(Name(field), ": ", std::string(read.status().message())));
  }
  *out = *read;
  return absl::OkStatus();
}

absl::StatusOr<const json*> JsonFields::ReadArray(const char* field, size_t max_length) {
  TS_ASSIGN_OR_RETURN(const json* value, Find(field));
  if (!value->is_array()) return absl::InvalidArgumentError(Name(field) + " is not an array");
  if (value->size() <= max_length) return value;
  return absl::InvalidArgumentError(
      absl::StrCat(Name(field), "'s length is ", value->size(), ", limit ", max_length));
}

absl::StatusOr<JsonFields> JsonFields::ReadObject(const char* field) {
  TS_ASSIGN_OR_RETURN(const json* value, Find(field));
  return JsonFields(*value, Name(field));
}

absl::Status JsonFields::Finish() const {
  for (const auto& item : object_.items()) {
    if (!read_.contains(item.key())) {
      return absl::InvalidArgumentError(absl::StrCat(path_, ".", item.key(), " is unknown"));
    }
  }
  return absl::OkStatus();
}

}  // namespace tailor
