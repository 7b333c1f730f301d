#include "worker/quality/task_items.h"

#include <map>
#include <set>

#include "common/model_file/json_fields.h"
#include "common/status.h"

namespace tailor {
namespace {

using nlohmann::json;

absl::StatusOr<std::string> RequiredString(const json& object, const char* key) {
  TS_ASSIGN_OR_RETURN(auto value, GetString(object, key));
  if (!value) return absl::InvalidArgumentError(absl::StrCat("no field ", key));
  return *std::move(value);
}

absl::Status ReadAnswers(const json& object, TaskItem* item) {
  const json* answers = FindField(object, "answers");
  if (answers == nullptr || !answers->is_array() || answers->empty()) {
    return absl::InvalidArgumentError("answers is not a list of at least one string");
  }
  for (const json& answer : *answers) {
    if (!answer.is_string())
      return absl::InvalidArgumentError("answers has a value that is no string");
    item->answers.push_back(answer.get<std::string>());
  }
  TS_ASSIGN_OR_RETURN(const std::string scoring, RequiredString(object, "scoring"));
  if (scoring != "all_in" && scoring != "any_in") {
    return absl::InvalidArgumentError(
        absl::StrCat("scoring is ", scoring, ", must be all_in or any_in"));
  }
  item->scoring = scoring == "all_in" ? Scoring::kAllIn : Scoring::kAnyIn;
  return absl::OkStatus();
}

absl::StatusOr<TaskItem> ParseItem(std::string_view line) {
  TS_ASSIGN_OR_RETURN(const json object, ParseJsonObject(line, "task item"));
  if (object.contains("turns")) {
    return absl::InvalidArgumentError("a conversation with turns is not a task item");
  }
  TaskItem item;
  TS_ASSIGN_OR_RETURN(item.id, RequiredString(object, "id"));
  TS_ASSIGN_OR_RETURN(item.task, RequiredString(object, "task"));
  TS_ASSIGN_OR_RETURN(item.prompt, RequiredString(object, "prompt"));
  TS_ASSIGN_OR_RETURN(const auto prefix, GetString(object, "answer_prefix"));
  item.answer_prefix = prefix.value_or("");
  TS_ASSIGN_OR_RETURN(const auto max_tokens, GetInt(object, "max_tokens"));
  if (!max_tokens || *max_tokens < 1 || *max_tokens > kMaxAnswerTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_tokens is ", max_tokens ? absl::StrCat(*max_tokens) : "not there",
                     ", limit 1..", kMaxAnswerTokens));
  }
  item.max_tokens = static_cast<int32_t>(*max_tokens);
  TS_RETURN_IF_ERROR(ReadAnswers(object, &item));
  return item;
}

}  // namespace

absl::Status ParseTaskItems(std::string_view text, const std::string& name,
                            std::vector<TaskItem>* items) {
  std::set<std::string> ids;
  for (const TaskItem& item : *items) ids.insert(item.id);
  for (int number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.find_first_not_of(" \t\r") == line.npos) continue;
    auto item = ParseItem(line);
    if (item.ok() && !ids.insert(item->id).second) {
      item = absl::InvalidArgumentError(absl::StrCat("id ", item->id, " is there twice"));
    }
    if (!item.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ":", number, ": ", std::string(item.status().message())));
    }
    items->push_back(*std::move(item));
  }
  return absl::OkStatus();
}

std::vector<TaskItem> LimitItems(std::vector<TaskItem> items, int per_task) {
  if (per_task == 0) return items;
  std::map<std::string, int> taken;
  std::erase_if(items, [&](const TaskItem& item) { return taken[item.task]++ >= per_task; });
  return items;
}

}  // namespace tailor
