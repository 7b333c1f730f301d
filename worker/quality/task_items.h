// Task items: questions over long texts with the strings a right answer contains. JSON lines:
//
//   id             a name, unique in a run
//   task           the group that scores are averaged over first
//   prompt         the whole user message
//   answers        the expected strings; an item without any is not scored and refused
//   scoring        "all_in" or "any_in" (worker/quality/scorer.h)
//   answer_prefix  optional: the beginning of the reply, given to the model
//   max_tokens     of the reply
//
// Other fields are left alone.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/quality/scorer.h"

namespace tailor {

struct TaskItem {
  std::string id, task, prompt, answer_prefix;
  std::vector<std::string> answers;
  Scoring scoring = Scoring::kAllIn;
  int32_t max_tokens = 0;
};

inline constexpr int64_t kMaxAnswerTokens = 65536;

// Appends the items of one file's text to `items`. `name` is for messages.
// Errors: InvalidArgument "name:line: ..." for what is no item, or an id that is there already.
absl::Status ParseTaskItems(std::string_view text, const std::string& name,
                            std::vector<TaskItem>* items);

// The first `per_task` items of each task, in their order; 0: all.
std::vector<TaskItem> LimitItems(std::vector<TaskItem> items, int per_task);

}  // namespace tailor
