// Typed access to parsed JSON from outside: a missing or mistyped field is a Status, never an
// exception.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "absl/status/statusor.h"

namespace tailor {

// Deeper values are refused: nlohmann::json copies, compares and prints by recursion, and a file of
// brackets would end the stack. Our formats need four levels.
inline constexpr int kMaxJsonDepth = 64;

// Errors: InvalidArgument naming `what` when the text is not JSON, not an object, or too deep.
absl::StatusOr<nlohmann::json> ParseJsonObject(std::string_view text, const std::string& what);

// The member, or nullptr when absent or null.
const nlohmann::json* FindField(const nlohmann::json& object, const char* key);

// nullopt when absent or null. Errors: InvalidArgument "<key> is <value>, must be an integer".
absl::StatusOr<std::optional<int64_t>> GetInt(const nlohmann::json& object, const char* key);
absl::StatusOr<std::optional<double>> GetNumber(const nlohmann::json& object, const char* key);
absl::StatusOr<std::optional<bool>> GetBool(const nlohmann::json& object, const char* key);
absl::StatusOr<std::optional<std::string>> GetString(const nlohmann::json& object, const char* key);

}  // namespace tailor
