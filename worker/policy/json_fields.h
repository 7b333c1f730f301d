// Reads a JSON object from an untrusted file field by field: each of the wanted kind and within its
// limit, none missing, none unknown. Every error is InvalidArgument and names field, value, limit.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>

#include "absl/status/statusor.h"
#include "common/fingerprint.h"

namespace tailor {

class JsonFields {
 public:
  // `path` begins the names in errors: "policy field evidence". `object` outlives the reader.
  JsonFields(const nlohmann::json& object, std::string path)
      : object_(object), path_(std::move(path)) {}

  absl::Status ReadInt(const char* field, int64_t low, int64_t high, int64_t* out);
  absl::Status ReadNumber(const char* field, double low, double high, double* out);
  // null is none; the field must be there.
  absl::Status ReadOptionalInt(const char* field, int64_t low, int64_t high,
                               std::optional<int64_t>* out);
  absl::Status ReadOptionalNumber(const char* field, double low, double high,
                                  std::optional<double>* out);
  absl::Status ReadText(const char* field, size_t max_bytes, std::string* out);
  absl::Status ReadFingerprint(const char* field, Fingerprint* out);
  // The field, which is an array no longer than that.
  absl::StatusOr<const nlohmann::json*> ReadArray(const char* field, size_t max_length);
  absl::StatusOr<JsonFields> ReadObject(const char* field);
  // After the last Read: errors on a field that was not asked for.
  absl::Status Finish() const;

  // One element of an array, or a field, as a number within limits; `name` for the error.
  static absl::Status ToNumber(const nlohmann::json& value, const std::string& name, double low,
                               double high, double* out);

 private:
  absl::StatusOr<const nlohmann::json*> Find(const char* field);
  std::string Name(const char* field) const { return path_ + "." + field; }

  const nlohmann::json& object_;
  std::string path_;
  std::set<std::string> read_;
};

}  // namespace tailor
