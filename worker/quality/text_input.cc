#include "worker/quality/text_input.h"

#include "common/fingerprint.h"
#include "common/status.h"
#include "worker/quality/result_log.h"

namespace tailor {
namespace {

constexpr int64_t kMaxInputBytes = int64_t{1} << 30;

absl::Status AtPath(const absl::Status& status, const std::filesystem::path& path) {
  return absl::Status(status.code(),
                      absl::StrCat(path.string(), ": ", std::string(status.message())));
}

}  // namespace

absl::StatusOr<InputFile> ReadInput(const std::filesystem::path& path) {
  InputFile file;
  TS_ASSIGN_OR_RETURN(file.text, ReadWholeFile(path, kMaxInputBytes));
  file.fingerprint = Fingerprinter().AddString(file.text).Finish().ToHex();
  return file;
}

absl::StatusOr<std::vector<std::vector<TokenId>>> CutText(const std::string& text,
                                                          const std::filesystem::path& path,
                                                          const Tokenizer& tokenizer,
                                                          const TokenizerSpec& spec,
                                                          const TextOptions& options) {
  const auto ids = tokenizer.Encode(text);
  if (!ids.ok()) return AtPath(ids.status(), path);
  auto windows = CutWindows(*ids, options, spec.add_bos ? tokenizer.bos() : std::nullopt);
  if (!windows.ok()) return AtPath(windows.status(), path);
  return windows;
}

}  // namespace tailor
