// What a long measurement has finished, kept so that an interrupted run can go on: in a folder,
// header.json says what was measured, METHOD.jsonl has one JSON object with an "id" a line.
#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"

namespace tailor {

class ResultLog {
 public:
  // Takes up what `folder` holds, or begins it. Every field of `header` must be the same as when it
  // was begun. A last line that was cut short by the end of a run is removed.
  // Errors: FailedPrecondition naming the first field that differs, DataLoss for a damaged line,
  // Unavailable when the folder cannot be written.
  static absl::StatusOr<ResultLog> Open(const std::filesystem::path& folder,
                                        const nlohmann::json& header);

  // nullptr: not done. Precondition: the method's file was read.
  const nlohmann::json* Find(const std::string& method, const std::string& id) const;
  // `record` has an "id" that is not there yet. On disk when this returns OK.
  absl::Status Append(const std::string& method, const nlohmann::json& record);
  // Errors: those of reading a method's file for the first time.
  absl::Status Read(const std::string& method);

 private:
  explicit ResultLog(std::filesystem::path folder) : folder_(std::move(folder)) {}
  std::filesystem::path FileOf(const std::string& method) const {
    return folder_ / (method + ".jsonl");
  }

  std::filesystem::path folder_;
  std::map<std::string, std::map<std::string, nlohmann::json>> records_;  // method -> id -> record
};

// The bytes of a file. Errors: NotFound, InvalidArgument past `limit_bytes`, naming the path.
absl::StatusOr<std::string> ReadWholeFile(const std::filesystem::path& path, int64_t limit_bytes);
// Writes beside it and renames, so that a reader sees the old or the new. Errors: Unavailable.
absl::Status WriteWholeFile(const std::filesystem::path& path, const std::string& bytes);

}  // namespace tailor
