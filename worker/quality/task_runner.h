// Task items answered greedily by several methods, and what the answers score.
//
// The prompt is prefilled once, exactly; every method decodes from those rows. The first token of
// an answer is therefore the same for all methods: it comes from the prefill.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "common/text/chat_template.h"
#include "worker/quality/methods.h"
#include "worker/quality/result_log.h"
#include "worker/quality/statistics.h"
#include "worker/quality/task_items.h"

namespace tailor {

// An item as the model reads it.
struct EncodedItem {
  TaskItem item;
  std::vector<TokenId> ids;  // conversation, user message, the reply's header, answer_prefix
  int64_t tokens() const { return static_cast<int64_t>(ids.size()) + item.max_tokens; }
};
absl::StatusOr<EncodedItem> EncodeItem(TaskItem item, const Tokenizer& tokenizer,
                                       const ChatTemplate& chat);

// Answers what `log` (read for every method) does not hold yet; records are {"id", "output"}.
// Errors: Cancelled and the like from `progress`; each answer that was finished before is kept.
absl::Status AnswerItems(MeasuredModel& model, const Tokenizer& tokenizer,
                         std::span<const EncodedItem> items, std::span<const Method* const> methods,
                         ResultLog& log, const ProgressFn& progress);

struct TaskScore {
  int64_t items = 0;
  Estimate score, difference;  // of a method; to full, item by item
};
struct MethodScores {
  TaskScore overall;  // the mean of the tasks' means
  std::map<std::string, TaskScore> tasks;
};
// Scores from the log, which holds every item for full and for `method`.
MethodScores ScoreItems(std::span<const EncodedItem> items, const std::string& method,
                        const ResultLog& log);

}  // namespace tailor
