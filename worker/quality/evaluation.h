// START HERE: a whole evaluation of one model and policy: task answers and text comparison by
// several methods, resumable. What is finished is kept in `out` (worker/quality/result_log.h).
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "worker/quality/task_runner.h"
#include "worker/quality/text_quality.h"

namespace tailor {

struct EvaluationOptions {
  std::vector<std::filesystem::path> tasks, texts;
  std::vector<std::string> methods;  // full is measured in any case, and first
  int items_per_task = 0;            // 0: all
  TextOptions text;
  int threads = 0;
  std::filesystem::path out;
};

struct TextResult {
  TextOptions options;
  std::vector<std::pair<std::string, TextSummary>> methods;  // without full: it is the yardstick
};
struct TaskResult {
  int64_t items = 0;
  std::vector<std::string> skipped;  // ids of items longer than the model's context
  std::vector<std::pair<std::string, MethodScores>> methods;
};
struct EvaluationResult {
  std::optional<TextResult> text;
  std::optional<TaskResult> tasks;
};

// A planned run: files read and tokenized, so that mistakes show before the weights are loaded.
class Evaluation {
 public:
  // Errors: NotFound and InvalidArgument for a file, method or number that cannot be used, naming
  // it; FailedPrecondition when `out` holds another run's results.
  static absl::StatusOr<std::unique_ptr<Evaluation>> Plan(std::unique_ptr<ModelFile> file,
                                                          const LayerPolicy& policy,
                                                          const EvaluationOptions& options);
  // Measures what is missing, if anything, and sums up. Once. Errors: ResourceExhausted with the
  // bytes that are missing; what `progress` answers when it is not OK.
  absl::StatusOr<EvaluationResult> Run(const ProgressFn& progress);

 private:
  struct Window {
    std::string id;
    std::vector<TokenId> ids;
  };
  Evaluation(std::unique_ptr<ModelFile> file, const LayerPolicy& policy,
             const EvaluationOptions& options);
  absl::Status PlanMethods();
  absl::Status PlanTasks();
  absl::Status PlanTexts();
  bool IsComplete() const;
  absl::StatusOr<std::unique_ptr<MeasuredModel>> LoadModel();
  TaskResult SumUpTasks() const;
  absl::StatusOr<TextResult> SumUpTexts() const;
  // Measures what the log lacks of one window.
  absl::Status RunWindow(MeasuredModel& model, size_t index, const ProgressFn& progress);
  std::span<const Method* const> compared() const { return std::span(methods_).subspan(1); }

  std::unique_ptr<ModelFile> file_;
  const LlamaHyperparameters shape_;
  const LayerPolicy policy_;
  const EvaluationOptions options_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::vector<const Method*> methods_;  // full first
  std::vector<EncodedItem> items_;
  std::vector<std::string> skipped_;
  std::vector<Window> windows_;
  std::optional<ResultLog> task_log_, text_log_;
};

}  // namespace tailor
