#include "worker/quality/result_log.h"

#include <fstream>
#include <iterator>

#include "common/status.h"

namespace tailor {
namespace {

using nlohmann::json;

constexpr int64_t kMaxLogBytes = int64_t{1} << 30;

absl::Status CheckHeader(const json& kept, const json& wanted,
                         const std::filesystem::path& folder) {
  for (const auto& [key, value] : wanted.items()) {
    if (kept.contains(key) && kept[key] == value) continue;
    return absl::FailedPreconditionError(absl::StrCat(
        folder.string(), " holds results of another run: its ", key, " is ",
        kept.contains(key) ? kept[key].dump() : "not given", ", this run's is ", value.dump()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> ReadWholeFile(const std::filesystem::path& path, int64_t limit_bytes) {
  std::error_code error;
  const auto bytes = std::filesystem::file_size(path, error);
  std::ifstream file(path, std::ios::binary);
  if (error || !file) return absl::NotFoundError(absl::StrCat("cannot read ", path.string()));
  if (bytes > static_cast<uintmax_t>(limit_bytes)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path.string(), " has ", bytes, " bytes, limit ", limit_bytes));
  }
  return std::string((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
}

absl::Status WriteWholeFile(const std::filesystem::path& path, const std::string& bytes) {
  std::filesystem::path beside = path;
  beside += ".new";
  std::ofstream file(beside, std::ios::binary);
  file << bytes;
  file.close();
  std::error_code error;
  if (file) std::filesystem::rename(beside, path, error);
  if (!file || error) {
    return absl::UnavailableError(absl::StrCat("cannot write ", path.string()));
  }
  return absl::OkStatus();
}

absl::StatusOr<ResultLog> ResultLog::Open(const std::filesystem::path& folder, const json& header) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) return absl::UnavailableError(absl::StrCat("cannot make ", folder.string()));
  const std::filesystem::path path = folder / "header.json";
  if (!std::filesystem::exists(path, error)) {
    TS_RETURN_IF_ERROR(WriteWholeFile(path, header.dump(2) + "\n"));
    return ResultLog(folder);
  }
  TS_ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(path, kMaxLogBytes));
  const json kept = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!kept.is_object()) return absl::DataLossError(absl::StrCat(path.string(), " is damaged"));
  TS_RETURN_IF_ERROR(CheckHeader(kept, header, folder));
  return ResultLog(folder);
}

absl::Status ResultLog::Read(const std::string& method) {
  const auto [entry, is_new] = records_.try_emplace(method);
  std::error_code error;
  if (!is_new || !std::filesystem::exists(FileOf(method), error)) return absl::OkStatus();
  TS_ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(FileOf(method), kMaxLogBytes));
  size_t first = 0;
  for (size_t end; (end = text.find('\n', first)) != text.npos; first = end + 1) {
    json record = json::parse(text.begin() + first, text.begin() + end, nullptr, false);
    if (!record.is_object() || !record.contains("id") || !record["id"].is_string()) {
      return absl::DataLossError(absl::StrCat(FileOf(method).string(), ": the line at byte ", first,
                                              " is no record; remove it to measure it again"));
    }
    std::string id = record["id"].get<std::string>();
    entry->second.emplace(std::move(id), std::move(record));
  }
  if (first == text.size()) return absl::OkStatus();
  std::filesystem::resize_file(FileOf(method), first, error);
  if (error) return absl::UnavailableError(absl::StrCat("cannot write ", FileOf(method).string()));
  return absl::OkStatus();
}

const json* ResultLog::Find(const std::string& method, const std::string& id) const {
  const auto records = records_.find(method);
  TS_CHECK(records != records_.end());  // Read comes first
  const auto record = records->second.find(id);
  return record == records->second.end() ? nullptr : &record->second;
}

absl::Status ResultLog::Append(const std::string& method, const json& record) {
  const std::string id = record["id"].get<std::string>();
  TS_CHECK(Find(method, id) == nullptr);
  std::ofstream file(FileOf(method), std::ios::binary | std::ios::app);
  file << record.dump() + "\n" << std::flush;
  if (!file) return absl::UnavailableError(absl::StrCat("cannot write ", FileOf(method).string()));
  records_[method].emplace(id, record);
  return absl::OkStatus();
}

}  // namespace tailor
