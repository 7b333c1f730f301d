#include "worker/quality/evaluation.h"

#include <algorithm>

#include "common/status.h"
#include "worker/quality/text_input.h"

namespace tailor {
namespace {

using nlohmann::json;

// Grows when the same inputs would give other results than before.
constexpr int kHarnessVersion = 1;

json Header(const ModelFile& file, const LayerPolicy& policy) {
  return {{"harness_version", kHarnessVersion},
          {"weights", file.fingerprint().ToHex()},
          {"policy", policy.fingerprint().ToHex()}};
}

}  // namespace

Evaluation::Evaluation(std::unique_ptr<ModelFile> file, const LayerPolicy& policy,
                       const EvaluationOptions& options)
    : file_(std::move(file)),
      shape_(file_->hyperparameters()),
      policy_(policy),
      options_(options) {}

absl::StatusOr<std::unique_ptr<Evaluation>> Evaluation::Plan(std::unique_ptr<ModelFile> file,
                                                             const LayerPolicy& policy,
                                                             const EvaluationOptions& options) {
  std::unique_ptr<Evaluation> plan(new Evaluation(std::move(file), policy, options));
  TS_RETURN_IF_ERROR(plan->PlanMethods());
  TS_ASSIGN_OR_RETURN(plan->tokenizer_, Tokenizer::Create(plan->file_->tokenizer()));
  if (!options.tasks.empty()) TS_RETURN_IF_ERROR(plan->PlanTasks());
  if (!options.texts.empty()) TS_RETURN_IF_ERROR(plan->PlanTexts());
  return plan;
}

absl::Status Evaluation::PlanMethods() {
  methods_ = {&FullMethod()};
  for (const std::string& name : options_.methods) {
    TS_ASSIGN_OR_RETURN(const Method* method, FindMethod(name));
    const LayerPolicy layers = method->layers(policy_, shape_.layers);
    TS_RETURN_IF_ERROR(layers.Validate(shape_, file_->fingerprint()));
    if (std::find(methods_.begin(), methods_.end(), method) == methods_.end()) {
      methods_.push_back(method);
    }
  }
  return absl::OkStatus();
}

absl::Status Evaluation::PlanTasks() {
  TS_ASSIGN_OR_RETURN(const auto chat, ChatTemplate::Create(file_->tokenizer(), *tokenizer_));
  json header = Header(*file_, policy_);
  std::vector<TaskItem> items;
  for (const std::filesystem::path& path : options_.tasks) {
    TS_ASSIGN_OR_RETURN(const InputFile input, ReadInput(path));
    TS_RETURN_IF_ERROR(ParseTaskItems(input.text, path.string(), &items));
    header["tasks"].push_back(input.fingerprint);
  }
  for (TaskItem& item : LimitItems(std::move(items), options_.items_per_task)) {
    TS_ASSIGN_OR_RETURN(EncodedItem encoded, EncodeItem(std::move(item), *tokenizer_, chat));
    if (encoded.tokens() > shape_.context_tokens) {
      skipped_.push_back(encoded.item.id);
    } else {
      items_.push_back(std::move(encoded));
    }
  }
  if (items_.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("nothing to answer: of the task items, ", skipped_.size(),
                     " are longer than the model's context of ", shape_.context_tokens, " tokens"));
  }
  TS_ASSIGN_OR_RETURN(task_log_, ResultLog::Open(options_.out / "answers", header));
  for (const Method* method : methods_) {
    TS_RETURN_IF_ERROR(task_log_->Read(std::string(method->name)));
  }
  return absl::OkStatus();
}

absl::Status Evaluation::PlanTexts() {
  if (methods_.size() < 2) {
    return absl::InvalidArgumentError("texts compare methods with full: name another one");
  }
  TS_RETURN_IF_ERROR(CheckWindow(options_.text, shape_));
  json header = Header(*file_, policy_);
  header["context_tokens"] = options_.text.context_tokens;
  header["decode_tokens"] = options_.text.decode_tokens;
  header["windows"] = options_.text.windows;
  for (const std::filesystem::path& path : options_.texts) {
    TS_ASSIGN_OR_RETURN(const InputFile input, ReadInput(path));
    TS_ASSIGN_OR_RETURN(auto windows,
                        CutText(input.text, path, *tokenizer_, file_->tokenizer(), options_.text));
    for (size_t w = 0; w < windows.size(); ++w) {
      windows_.push_back(
          {absl::StrCat(input.fingerprint.substr(0, 16), "/", w), std::move(windows[w])});
    }
    header["texts"].push_back(input.fingerprint);
  }
  TS_ASSIGN_OR_RETURN(text_log_, ResultLog::Open(options_.out / "text", header));
  for (const Method* method : compared()) {
    TS_RETURN_IF_ERROR(text_log_->Read(std::string(method->name)));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<MeasuredModel>> Evaluation::LoadModel() {
  int64_t tokens = 0, arena_bytes = 0;
  for (const EncodedItem& item : items_) {
    tokens = std::max(tokens, item.tokens());
    TS_ASSIGN_OR_RETURN(
        const int64_t bytes,
        MeasuredModel::ArenaBytes(shape_, policy_, item.tokens(), item.item.max_tokens, 1));
    arena_bytes = std::max(arena_bytes, bytes);
  }
  if (!windows_.empty()) {
    tokens = std::max(tokens, options_.text.WindowTokens());
    TS_ASSIGN_OR_RETURN(const int64_t bytes,
                        MeasuredModel::ArenaBytes(shape_, policy_, options_.text.WindowTokens(),
                                                  options_.text.decode_tokens,
                                                  static_cast<int64_t>(methods_.size())));
    arena_bytes = std::max(arena_bytes, bytes);
  }
  return MeasuredModel::Create(
      std::move(file_), policy_,
      {.threads = options_.threads, .context_tokens = tokens, .arena_bytes = arena_bytes});
}

bool Evaluation::IsComplete() const {
  const auto all_done = [](const auto& methods, const auto& things, const ResultLog& log, auto id) {
    return std::all_of(methods.begin(), methods.end(), [&](const Method* method) {
      return std::all_of(things.begin(), things.end(), [&](const auto& thing) {
        return log.Find(std::string(method->name), id(thing)) != nullptr;
      });
    });
  };
  return (!task_log_ || all_done(methods_, items_, *task_log_,
                                 [](const EncodedItem& item) { return item.item.id; })) &&
         (!text_log_ || all_done(compared(), windows_, *text_log_,
                                 [](const Window& window) { return window.id; }));
}

absl::StatusOr<EvaluationResult> Evaluation::Run(const ProgressFn& progress) {
  TS_CHECK(file_ != nullptr);  // once
  if (!IsComplete()) {
    TS_ASSIGN_OR_RETURN(const auto model, LoadModel());
    if (task_log_) {
      TS_RETURN_IF_ERROR(AnswerItems(*model, *tokenizer_, items_, methods_, *task_log_, progress));
    }
    for (size_t w = 0; w < windows_.size(); ++w) {
      TS_RETURN_IF_ERROR(RunWindow(*model, w, progress));
    }
  }
  EvaluationResult result;
  if (task_log_) result.tasks = SumUpTasks();
  if (text_log_) {
    TS_ASSIGN_OR_RETURN(result.text, SumUpTexts());
  }
  return result;
}

TaskResult Evaluation::SumUpTasks() const {
  TaskResult result = {
      .items = static_cast<int64_t>(items_.size()), .skipped = skipped_, .methods = {}};
  for (const Method* method : methods_) {
    const std::string name(method->name);
    result.methods.emplace_back(name, ScoreItems(items_, name, *task_log_));
  }
  return result;
}

absl::Status Evaluation::RunWindow(MeasuredModel& model, size_t index, const ProgressFn& progress) {
  const Window& window = windows_[index];
  std::vector<const Method*> missing;
  for (const Method* method : compared()) {
    if (text_log_->Find(std::string(method->name), window.id) == nullptr) missing.push_back(method);
  }
  if (missing.empty()) return absl::OkStatus();
  const auto total = static_cast<int64_t>(windows_.size());
  TS_ASSIGN_OR_RETURN(
      const auto measured,
      MeasureWindow(model, missing, window.ids, options_.text, index, [&](const std::string& what) {
        return progress(absl::StrCat("text ", what), static_cast<int64_t>(index), total);
      }));
  for (size_t m = 0; m < missing.size(); ++m) {
    json record = measured[m].ToJson();
    record["id"] = window.id;
    TS_RETURN_IF_ERROR(text_log_->Append(std::string(missing[m]->name), record));
  }
  return absl::OkStatus();
}

absl::StatusOr<TextResult> Evaluation::SumUpTexts() const {
  TextResult result = {.options = options_.text, .methods = {}};
  for (const Method* method : compared()) {
    const std::string name(method->name);
    std::vector<WindowQuality> windows;
    for (const Window& window : windows_) {
      TS_ASSIGN_OR_RETURN(windows.emplace_back(),
                          WindowQuality::FromJson(*text_log_->Find(name, window.id)));
    }
    result.methods.emplace_back(name, Summarise(windows));
  }
  return result;
}

}  // namespace tailor
