// `tailor eval`: its flags, and the run behind worker/quality/evaluation.h.
#include <cstdio>
#include <memory>

#include "common/cpu/simd_level.h"
#include "common/status.h"
#include "services/cli/command.h"
#include "services/cli/eval_report.h"
#include "services/cli/failure.h"
#include "services/cli/measuring.h"
#include "services/worker/policy_source.h"
#include "worker/quality/evaluation.h"

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

MeasuringCommand CommandOf(const EvalFlags& flags) {
  return {.name = "eval",
          .out = flags.out,
          .less = "a smaller --context, fewer --methods, shorter items"};
}

int Finish(const EvalFlags& flags, const EvalSubject& subject, const EvaluationResult& result) {
  const Reports reports = {.json = EvalJson(subject, result),
                           .markdown = EvalMarkdown(subject, result),
                           .html = EvalHtml(subject, result)};
  if (const absl::Status written = WriteReports(reports, flags.out); !written.ok()) {
    return FailMeasuring(CommandOf(flags), written);
  }
  std::printf("%s", reports.markdown.c_str());
  std::fprintf(stderr, "reports: %s/report.html, report.md, report.json\n", flags.out.c_str());
  return kExitOk;
}

int RunEval(EvalFlags& flags) {
  const MeasuringCommand command = CommandOf(flags);
  if (flags.tasks.empty() && flags.texts.empty()) {
    return Fail(kExitUsage, "eval: nothing to measure: give --tasks FILE or --text FILE",
                "`tailor eval --help` shows examples");
  }
  Interrupts interrupts;  // before any other thread
  auto file = ModelFile::Open(flags.model);
  if (!file.ok()) return FailModel(command, file.status());
  const PolicyRequest request = {.model = flags.model, .policy = flags.policy};
  const auto chosen =
      ChoosePolicy(request, (*file)->name(), (*file)->fingerprint(), (*file)->hyperparameters());
  if (!chosen.ok()) return FailModel(command, chosen.status());
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
  if (!evaluation.ok()) return FailMeasuring(command, evaluation.status());
  EvaluationResult result;
  const absl::Status run =
      RunInterruptibly(interrupts, flags.out, [&](const ProgressFn& progress) -> absl::Status {
        TS_ASSIGN_OR_RETURN(result, (*evaluation)->Run(progress));
        return absl::OkStatus();
      });
  if (!run.ok()) {
    return IsModelFault(run) ? FailModel(command, run) : FailMeasuring(command, run);
  }
  return Finish(flags, subject, result);
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
