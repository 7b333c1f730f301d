// `tailor calibrate`: its flags, and the run behind worker/quality/calibration.h.
#include <cstdio>
#include <memory>

#include "absl/strings/str_replace.h"
#include "common/status.h"
#include "services/cli/calibrate_report.h"
#include "services/cli/command.h"
#include "services/cli/failure.h"
#include "services/cli/measuring.h"
#include "services/cli/terminal.h"
#include "worker/quality/calibration.h"

namespace tailor {
namespace {

constexpr char kFooter[] = R"(
Examples:
  tailor calibrate model.gguf --text book.txt                   better, for the default's bytes
  tailor calibrate model.gguf --text book.txt --max-kl 0.01     the fewest bytes that are as good
  tailor calibrate model.gguf --text a.txt --held-out b.txt --max-fetched-bytes 2MiB
  tailor calibrate model.gguf --text a.txt --text b.txt --max-device-bytes 64MiB --context 8000

It scores every layer's dense preference, then tries numbers of rows, quantized layers, bits,
residual, channels, and rows by layer, each measured against full attention on windows of the text.
What it chooses: with --max-kl the fewest fetched bytes that reach it; else the lowest KL within the
byte limits. Without any limit these are the default policy's own bytes. The choice is measured
again on windows that the search did not see.
--out gets WEIGHTS.json (the policy, with this evidence inside), report.html, report.md and
report.json. Everything measured is kept there: after Ctrl-C the same command goes on, and other
limits on the same texts measure only what is missing. The servers need not run.
Exit codes: 1 no policy keeps the limits (the report shows what comes closest), 2 usage, 3 the model
cannot be used, 4 not enough memory, 130 interrupted.)";

struct CalibrateFlags {
  std::string model;
  std::vector<std::string> texts, held_out;
  std::string out = "tailor-calibration";
  int64_t max_device_bytes = 0, max_fetched_bytes = 0;  // 0: not given
  double max_kl = 0;
  CalibrationOptions options;
};

MeasuringCommand CommandOf(const CalibrateFlags& flags) {
  return {.name = "calibrate", .out = flags.out, .less = "a smaller --context, fewer --windows"};
}

// As one argument of a POSIX shell.
std::string ShellQuoted(const std::string& argument) {
  const bool plain = argument.find_first_not_of(
                         "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                         "0123456789_-./=:,+@") == std::string::npos;
  if (plain && !argument.empty()) return argument;
  return absl::StrCat("'", absl::StrReplaceAll(argument, {{"'", "'\\''"}}), "'");
}

int Finish(const CalibrateFlags& flags, const CalibrationResult& result) {
  const std::filesystem::path out = flags.out;
  const Reports reports = {.json = CalibrationJson(result),
                           .markdown = CalibrationMarkdown(result),
                           .html = CalibrationHtml(result)};
  absl::Status written = WriteReports(reports, out);
  const std::filesystem::path policy = out / (result.policy.weights.ToHex() + ".json");
  if (written.ok() && result.meets_limits) written = WriteWholeFile(policy, result.policy.ToJson());
  if (!written.ok()) return FailMeasuring(CommandOf(flags), written);
  std::printf("%s", reports.markdown.c_str());
  std::fprintf(stderr, "reports: %s/report.html, report.md, report.json\n", flags.out.c_str());
  if (!result.meets_limits) {
    return Fail(kExitRuntime, "calibrate: no policy that was measured keeps the limits",
                "the report shows what comes closest; raise --max-kl, --max-fetched-bytes or "
                "--max-device-bytes");
  }
  const std::optional<double> floor = result.search.limits.kl;
  if (floor && result.held_out.kl.mean > *floor) {
    std::fprintf(stderr,
                 "note: on held-out text the KL is %.5f, above --max-kl %g: ask for less, or give "
                 "more --windows\n",
                 result.held_out.kl.mean, *floor);
  }
  std::fprintf(stderr, "policy: %s\n  next: tailor up --model %s --policy %s\n", policy.c_str(),
               ShellQuoted(flags.model).c_str(), ShellQuoted(policy.string()).c_str());
  return kExitOk;
}

int RunCalibrate(CalibrateFlags& flags) {
  const MeasuringCommand command = CommandOf(flags);
  Interrupts interrupts;  // before any other thread
  auto file = ModelFile::Open(flags.model);
  if (!file.ok()) return FailModel(command, file.status());
  CalibrationOptions& options = flags.options;
  options.texts.assign(flags.texts.begin(), flags.texts.end());
  options.held_out.assign(flags.held_out.begin(), flags.held_out.end());
  options.out = flags.out;
  options.tool = TAILOR_VERSION;
  if (flags.max_device_bytes > 0) options.limits.device_bytes = flags.max_device_bytes;
  if (flags.max_fetched_bytes > 0) options.limits.fetched_bytes = flags.max_fetched_bytes;
  if (flags.max_kl > 0) options.limits.kl = flags.max_kl;
  auto calibration = Calibration::Plan(*std::move(file), options);
  if (!calibration.ok()) return FailMeasuring(command, calibration.status());
  CalibrationResult result;
  const absl::Status run =
      RunInterruptibly(interrupts, flags.out, [&](const ProgressFn& progress) -> absl::Status {
        TS_ASSIGN_OR_RETURN(result, (*calibration)->Run(progress));
        return absl::OkStatus();
      });
  if (!run.ok()) return IsModelFault(run) ? FailModel(command, run) : FailMeasuring(command, run);
  return Finish(flags, result);
}

void AddInputFlags(CLI::App& command, CalibrateFlags& flags) {
  command
      .add_option("MODEL,--model", flags.model,
                  "The model: a .gguf file or a Hugging Face directory")
      ->required()
      ->envname("TAILOR_MODEL");
  command
      .add_option("--text", flags.texts,
                  "UTF-8 text, long, like what will be served; may be given again")
      ->type_name("FILE")
      ->allow_extra_args(false)
      ->required()
      ->envname("TAILOR_TEXT");
  command
      .add_option(
          "--held-out", flags.held_out,
          "Text that the choice is measured on in the end; default: a window of each --text")
      ->type_name("FILE")
      ->allow_extra_args(false)
      ->envname("TAILOR_HELD_OUT");
  command
      .add_option(
          "--out", flags.out,
          "Where policy, reports and measurements go; a folder of the same texts is taken up")
      ->capture_default_str()
      ->envname("TAILOR_OUT");
}

void AddLimitFlags(CLI::App& command, CalibrateFlags& flags) {
  command
      .add_option("--max-fetched-bytes", flags.max_fetched_bytes,
                  "Most bytes of rows fetched for a decoded token (\"2MiB\")")
      ->transform(CLI::AsSizeValue(false))
      ->check(CLI::PositiveNumber)
      ->envname("TAILOR_MAX_FETCHED_BYTES");
  command
      .add_option("--max-device-bytes", flags.max_device_bytes,
                  "Most bytes that one sequence of --context tokens keeps in the worker")
      ->transform(CLI::AsSizeValue(false))
      ->check(CLI::PositiveNumber)
      ->envname("TAILOR_MAX_DEVICE_BYTES");
  command
      .add_option("--max-kl", flags.max_kl,
                  "The quality to be reached: KL from full attention, nats a token (0.01)")
      ->check(CLI::PositiveNumber)
      ->envname("TAILOR_MAX_KL");
  DensePreferenceOptions& scoring = flags.options.scoring;
  command
      .add_option("--score-threshold", scoring.threshold,
                  "A layer whose dense preference is above may be quantized")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str()
      ->envname("TAILOR_SCORE_THRESHOLD");
  command
      .add_option("--max-quantized-layers", scoring.max_quantized_layers,
                  "Of those, the most that are tried together, by score")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str()
      ->envname("TAILOR_MAX_QUANTIZED_LAYERS");
}

void AddMeasureFlags(CLI::App& command, CalibrationOptions& options) {
  command
      .add_option("--context", options.text.context_tokens,
                  "Prefilled tokens of a window, and the sequence that device bytes are of")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str()
      ->envname("TAILOR_CONTEXT");
  command
      .add_option("--decode", options.text.decode_tokens,
                  "Tokens of a window that every policy decodes")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str()
      ->envname("TAILOR_DECODE");
  command
      .add_option("--windows", options.text.windows,
                  "Windows of each text: more tell closer policies apart, and take memory")
      ->check(CLI::Range(1, 1 << 10))
      ->capture_default_str()
      ->envname("TAILOR_WINDOWS");
  command.add_option("--threads", options.threads, "Compute threads; default: one per core")
      ->check(CLI::Range(1, 1024))
      ->envname("TAILOR_THREADS");
}

}  // namespace

void AddCalibrateCommand(CLI::App& app, const GlobalOptions&, RunFn* run) {
  CLI::App* command =
      app.add_subcommand("calibrate", "Find a cache policy for a model within limits");
  command->footer(kFooter);
  const auto flags = std::make_shared<CalibrateFlags>();
  AddInputFlags(*command, *flags);
  AddLimitFlags(*command, *flags);
  AddMeasureFlags(*command, flags->options);
  command->callback([run, flags] { *run = [flags] { return RunCalibrate(*flags); }; });
}

}  // namespace tailor
