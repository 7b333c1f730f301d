// `tailor eval`: its flags, and the run behind worker/quality/evaluation.h.
#include <atomic>
#include <cstdio>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/cpu/simd_level.h"
#include "common/status.h"
#include "services/cli/command.h"
#include "services/cli/eval_report.h"
#include "services/cli/failure.h"
#include "services/cli/interrupts.h"
#include "services/cli/terminal.h"
#include "services/exit_code.h"
#include "services/worker/policy_source.h"
#include "worker/quality/evaluation.h"
#include "worker/quality/result_log.h"

namespace tailor {
namespace {

constexpr char kFooter[] = R"(
Examples:
  tailor eval model.gguf --text book.txt                  hybrid against full attention on a book
  tailor eval model.gguf --tasks tasks.jsonl --limit 2    two items of each task, scored
  tailor eval model.gguf --tasks tasks.jsonl --text book.txt --methods hybrid,oracle,random
  tailor eval model.gguf --policy mine.json --text a.txt --text b.txt --context 6000 --windows 8

Methods: full (the yardstick, always run), hybrid (the policy), oracle (the best rows there are),
quest, random, window (no rows), quantized (every layer). Text gives KL, top-1 agreement, perplexity
ratio and mass recall; tasks give scores with intervals. Each finished answer and window is kept in
--out: after Ctrl-C the same command goes on where it stopped, and in the end report.html, report.md
and report.json are there. Task items are JSON lines: {"id", "task", "prompt", "answers": [...],
"scoring": "all_in" or "any_in", "max_tokens"}. The servers need not run; the policy is the one that
`tailor up` would take.
Exit codes: 2 usage, 3 the model or policy cannot be used, 4 not enough memory, 130 interrupted.)";

struct EvalFlags {
  std::string model, policy;
  std::vector<std::string> tasks, texts;
  std::string out = "tailor-eval";
  EvaluationOptions options;
};

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

std::string NextStep(const absl::Status& status, const EvalFlags& flags) {
  switch (status.code()) {
    case absl::StatusCode::kCancelled:
      return "the same command goes on where this one stopped";
    case absl::StatusCode::kFailedPrecondition:
      return absl::StrCat("name another folder with --out, or remove ", flags.out);
    case absl::StatusCode::kResourceExhausted:
      return "ask for less: a smaller --context, fewer --methods, shorter items";
    default:
      return "`tailor eval --help` shows examples";
  }
}

int FailEval(const absl::Status& status, const EvalFlags& flags) {
  return Fail(ExitCodeOf(status), absl::StrCat("eval: ", std::string(status.message())),
              NextStep(status, flags));
}

// Of a run whose plan was found good: what is left to be wrong is in the weights.
bool IsModelFault(const absl::Status& status) {
  return absl::IsInvalidArgument(status) || absl::IsNotFound(status) ||
         absl::IsUnimplemented(status);
}

int FailModel(const absl::Status& status) {
  return Fail(kExitBadModel, absl::StrCat("eval: ", std::string(status.message())),
              "a model is a .gguf file or a Hugging Face directory of the Llama architecture");
}

absl::Status WriteReports(const EvalSubject& subject, const EvaluationResult& result,
                          const std::filesystem::path& out) {
  const nlohmann::json report = EvalJson(subject, result);
  TS_RETURN_IF_ERROR(WriteWholeFile(out / "report.json", report.dump(2) + "\n"));
  TS_RETURN_IF_ERROR(WriteWholeFile(out / "report.md", EvalMarkdown(subject, result)));
  return WriteWholeFile(out / "report.html", EvalHtml(subject, result));
}

// Ctrl-C ends the run between two steps; what is finished is on disk by then.
absl::StatusOr<EvaluationResult> RunInterruptibly(Evaluation& evaluation, Interrupts& interrupts,
                                                  const std::string& out) {
  std::atomic<bool> interrupted = false;
  const Interrupts::Scope scope(interrupts, [&] { interrupted = true; });
  ProgressLine line(DetectTerminal());
  line.Show("loading the model", 0, 0);
  return evaluation.Run([&](const std::string& label, int64_t done, int64_t total) {
    if (interrupted) {
      return absl::CancelledError(
          absl::StrCat("interrupted at ", done, " of ", total, "; finished results are in ", out));
    }
    line.Show(label, done, total);
    return absl::OkStatus();
  });
}

int RunEval(EvalFlags& flags) {
  if (flags.tasks.empty() && flags.texts.empty()) {
    return Fail(kExitUsage, "eval: nothing to measure: give --tasks FILE or --text FILE",
                "`tailor eval --help` shows examples");
  }
  Interrupts interrupts;  // before any other thread
  auto file = ModelFile::Open(flags.model);
  if (!file.ok()) return FailModel(file.status());
  const PolicyRequest request = {.model = flags.model, .policy = flags.policy};
  const auto chosen =
      ChoosePolicy(request, (*file)->name(), (*file)->fingerprint(), (*file)->hyperparameters());
  if (!chosen.ok()) return FailModel(chosen.status());
  const EvalSubject subject = {.model_name = (*file)->name(),
                               .weights = (*file)->fingerprint().ToHex(),
                               .policy_summary = chosen->policy.Summary(),
                               .policy = chosen->policy.fingerprint().ToHex(),
                               .policy_source = chosen->source,
                               .simd = std::string(ToString(DetectSimdLevel()))};
  EvaluationOptions& options = flags.options;
  options.tasks.assign(flags.tasks.begin(), flags.tasks.end());
  options.texts.assign(flags.texts.begin(), flags.texts.end());
  options.out = flags.out;
  auto evaluation = Evaluation::Plan(*std::move(file), chosen->policy, options);
  if (!evaluation.ok()) return FailEval(evaluation.status(), flags);
  const auto result = RunInterruptibly(**evaluation, interrupts, flags.out);
  if (!result.ok()) {
    return IsModelFault(result.status()) ? FailModel(result.status())
                                         : FailEval(result.status(), flags);
  }
  if (absl::Status written = WriteReports(subject, *result, options.out); !written.ok()) {
    return FailEval(written, flags);
  }
  std::printf("%s", EvalMarkdown(subject, *result).c_str());
  std::fprintf(stderr, "reports: %s/report.html, report.md, report.json\n", flags.out.c_str());
  return kExitOk;
}

void AddInputFlags(CLI::App& command, EvalFlags& flags) {
  command
      .add_option("MODEL,--model", flags.model,
                  "The model: a .gguf file or a Hugging Face directory")
      ->required()
      ->envname("TAILOR_MODEL");
  command.add_option("--policy", flags.policy, "A layer policy; default: the model's own file")
      ->envname("TAILOR_POLICY");
  command.add_option("--tasks", flags.tasks, "Task items, JSON lines; may be given again")
      ->type_name("FILE")
      ->allow_extra_args(false)
      ->envname("TAILOR_TASKS");
  command.add_option("--text", flags.texts, "UTF-8 text, long; may be given again")
      ->type_name("FILE")
      ->allow_extra_args(false)
      ->envname("TAILOR_TEXT");
  command
      .add_option("--out", flags.out,
                  "Where results and reports go; a folder of the same run is taken up")
      ->capture_default_str()
      ->envname("TAILOR_OUT");
}

void AddMeasureFlags(CLI::App& command, EvalFlags& flags) {
  EvaluationOptions& options = flags.options;
  options.methods = {"full", "hybrid", "oracle", "random"};
  std::vector<std::string> names;
  for (const Method& method : AllMethods()) names.emplace_back(method.name);
  command.add_option("--methods", options.methods, "What to compare, separated by commas")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::IsMember(names))
      ->capture_default_str()
      ->envname("TAILOR_METHODS");
  command.add_option("--limit", options.items_per_task, "Items of each task; 0: all")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str()
      ->envname("TAILOR_LIMIT");
  command.add_option("--context", options.text.context_tokens, "Prefilled tokens of a text window")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str()
      ->envname("TAILOR_CONTEXT");
  command
      .add_option("--decode", options.text.decode_tokens,
                  "Tokens of a text window that every method decodes")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str()
      ->envname("TAILOR_DECODE");
  command
      .add_option("--windows", options.text.windows,
                  "Windows of each text: more give smaller standard errors")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str()
      ->envname("TAILOR_WINDOWS");
  command.add_option("--threads", options.threads, "Compute threads; default: one per core")
      ->check(CLI::Range(1, 1024))
      ->envname("TAILOR_THREADS");
}

}  // namespace

void AddEvalCommand(CLI::App& app, const GlobalOptions&, RunFn* run) {
  CLI::App* command =
      app.add_subcommand("eval", "Measure the cache's quality against full attention");
  command->footer(kFooter);
  const auto flags = std::make_shared<EvalFlags>();
  AddInputFlags(*command, *flags);
  AddMeasureFlags(*command, *flags);
  command->callback([run, flags] { *run = [flags] { return RunEval(*flags); }; });
}

}  // namespace tailor
