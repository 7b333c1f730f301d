#include "worker/quality/task_runner.h"

#include <algorithm>

#include "common/status.h"
#include "common/text/detokenizer.h"

namespace tailor {
namespace {

// Draws that do not depend on which items ran before: an interrupted run goes on as if it had not
// been.
uint64_t SeedOf(const std::string& id) {
  const Fingerprint hash = Fingerprinter().AddString(id).Finish();
  uint64_t seed = 0;
  for (int i = 0; i < 8; ++i) seed = seed << 8 | hash.bytes[i];
  return seed;
}

absl::StatusOr<std::string> Continue(MeasuredModel& model, const Tokenizer& tokenizer,
                                     TokenId first, int max_tokens, MethodRun& run,
                                     const std::function<absl::Status()>& between_steps) {
  Detokenizer text(tokenizer);
  std::string output;
  TokenId token = first;
  const auto& stops = tokenizer.end_of_generation();
  for (int i = 0; i < max_tokens; ++i) {
    if (std::binary_search(stops.begin(), stops.end(), token)) break;
    output += text.Push(token);
    if (i + 1 == max_tokens) break;
    TS_RETURN_IF_ERROR(between_steps());
    TS_RETURN_IF_ERROR(run.Step(token));
    token = ArgMax(model.logits());
  }
  return output + text.Flush();
}

// One item by the methods that lack it.
absl::Status AnswerItem(MeasuredModel& model, const Tokenizer& tokenizer, const EncodedItem& item,
                        std::span<const Method* const> methods, ResultLog& log,
                        const std::function<absl::Status(const std::string&)>& progress) {
  TS_ASSIGN_OR_RETURN(auto prompt, model.Open("prompt", CacheMode::kHybrid, item.tokens()));
  TS_RETURN_IF_ERROR(model.RunPrefill(item.ids, *prompt, [&](int64_t done, int64_t total) {
    return progress(absl::StrCat("prefill ", 100 * done / total, "%"));
  }));
  const TokenId first = ArgMax(model.logits());
  for (const Method* method : methods) {
    const std::string name(method->name);
    TS_ASSIGN_OR_RETURN(MethodRun run, MethodRun::Start(model, *method, *prompt, name,
                                                        item.tokens(), SeedOf(item.item.id)));
    TS_ASSIGN_OR_RETURN(const std::string output,
                        Continue(model, tokenizer, first, item.item.max_tokens, run,
                                 [&] { return progress(name); }));
    TS_RETURN_IF_ERROR(log.Append(name, {{"id", item.item.id}, {"output", output}}));
    TS_RETURN_IF_ERROR(run.Close());
  }
  return model.store->CloseSequence(prompt->handle());
}

double ScoreOf(const EncodedItem& item, const std::string& method, const ResultLog& log) {
  const nlohmann::json* record = log.Find(method, item.item.id);
  TS_CHECK(record != nullptr);
  return ScoreAnswer(record->value("output", ""), item.item.answers, item.item.scoring);
}

}  // namespace

absl::StatusOr<EncodedItem> EncodeItem(TaskItem item, const Tokenizer& tokenizer,
                                       const ChatTemplate& chat) {
  EncodedItem encoded;
  TS_ASSIGN_OR_RETURN(encoded.ids, chat.OpenConversation(std::nullopt));
  TS_ASSIGN_OR_RETURN(const auto user, chat.UserTurn(item.prompt));
  TS_ASSIGN_OR_RETURN(const auto prefix, tokenizer.Encode(item.answer_prefix));
  encoded.ids.insert(encoded.ids.end(), user.begin(), user.end());
  encoded.ids.insert(encoded.ids.end(), prefix.begin(), prefix.end());
  encoded.item = std::move(item);
  return encoded;
}

absl::Status AnswerItems(MeasuredModel& model, const Tokenizer& tokenizer,
                         std::span<const EncodedItem> items, std::span<const Method* const> methods,
                         ResultLog& log, const ProgressFn& progress) {
  const auto total = static_cast<int64_t>(items.size());
  for (int64_t done = 0; done < total; ++done) {
    const EncodedItem& item = items[done];
    std::vector<const Method*> missing;
    for (const Method* method : methods) {
      if (log.Find(std::string(method->name), item.item.id) == nullptr) missing.push_back(method);
    }
    if (missing.empty()) continue;
    TS_RETURN_IF_ERROR(
        AnswerItem(model, tokenizer, item, missing, log, [&](const std::string& what) {
          return progress(absl::StrCat(item.item.task, " ", what), done, total);
        }));
  }
  return absl::OkStatus();
}

MethodScores ScoreItems(std::span<const EncodedItem> items, const std::string& method,
                        const ResultLog& log) {
  std::map<std::string, std::vector<double>> scores, differences;
  for (const EncodedItem& item : items) {
    const double score = ScoreOf(item, method, log);
    scores[item.item.task].push_back(score);
    const std::string full(FullMethod().name);
    differences[item.item.task].push_back(score - ScoreOf(item, full, log));
  }
  MethodScores out;
  std::vector<std::vector<double>> all_scores, all_differences;
  for (const auto& [task, values] : scores) {
    out.tasks[task] = {.items = static_cast<int64_t>(values.size()),
                       .score = BootstrapMean(std::span(&values, 1)),
                       .difference = BootstrapMean(std::span(&differences[task], 1))};
    all_scores.push_back(values);
    all_differences.push_back(differences[task]);
  }
  out.overall = {.items = static_cast<int64_t>(items.size()),
                 .score = BootstrapMean(all_scores),
                 .difference = BootstrapMean(all_differences)};
  return out;
}

}  // namespace tailor
