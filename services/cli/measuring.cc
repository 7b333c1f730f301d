#include "services/cli/measuring.h"

#include <atomic>

#include "common/status.h"
#include "services/cli/failure.h"
#include "services/cli/terminal.h"
#include "worker/quality/result_log.h"

namespace tailor {
namespace {

ExitCode ExitCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kCancelled:
      return kExitInterrupted;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kFailedPrecondition:
      return kExitUsage;
    case absl::StatusCode::kUnimplemented:  // a tokenizer or chat template we cannot follow
      return kExitBadModel;
    case absl::StatusCode::kResourceExhausted:
      return kExitNoMemory;
    default:
      return kExitRuntime;
  }
}

std::string NextStep(const absl::Status& status, const MeasuringCommand& command) {
  switch (status.code()) {
    case absl::StatusCode::kCancelled:
      return "the same command goes on where this one stopped";
    case absl::StatusCode::kFailedPrecondition:
      return absl::StrCat("name another folder with --out, or remove ", command.out);
    case absl::StatusCode::kResourceExhausted:
      return absl::StrCat("ask for less: ", command.less);
    default:
      return absl::StrCat("`tailor ", command.name, " --help` shows examples");
  }
}

std::string What(const MeasuringCommand& command, const absl::Status& status) {
  return absl::StrCat(command.name, ": ", std::string(status.message()));
}

}  // namespace

int FailMeasuring(const MeasuringCommand& command, const absl::Status& status) {
  return Fail(ExitCodeOf(status), What(command, status), NextStep(status, command));
}

int FailModel(const MeasuringCommand& command, const absl::Status& status) {
  return Fail(
      kExitBadModel, What(command, status),
      "a model is a .gguf file or a Hugging Face directory, of the Llama or Qwen2 architecture");
}

bool IsModelFault(const absl::Status& status) {
  return absl::IsInvalidArgument(status) || absl::IsNotFound(status) ||
         absl::IsUnimplemented(status);
}

absl::Status RunInterruptibly(Interrupts& interrupts, const std::string& out,
                              absl::FunctionRef<absl::Status(const ProgressFn&)> measure) {
  std::atomic<bool> interrupted = false;
  const Interrupts::Scope scope(interrupts, [&] { interrupted = true; });
  ProgressLine line(DetectTerminal());
  line.Show("loading the model", 0, 0);
  return measure([&](const std::string& label, int64_t done, int64_t total) {
    if (interrupted) {
      return absl::CancelledError(
          absl::StrCat("interrupted at ", done, " of ", total, "; finished results are in ", out));
    }
    line.Show(label, done, total);
    return absl::OkStatus();
  });
}

absl::Status WriteReports(const Reports& reports, const std::filesystem::path& out) {
  TS_RETURN_IF_ERROR(WriteWholeFile(out / "report.json", reports.json.dump(2) + "\n"));
  TS_RETURN_IF_ERROR(WriteWholeFile(out / "report.md", reports.markdown));
  return WriteWholeFile(out / "report.html", reports.html);
}

}  // namespace tailor
