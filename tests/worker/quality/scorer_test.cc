// Our scorer against another one's scores: tests/golden/scores/README.md.
#include "worker/quality/scorer.h"

#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "worker/quality/result_log.h"
#include "worker/quality/statistics.h"
#include "worker/quality/task_items.h"

namespace tailor {
namespace {

using nlohmann::json;

std::string Golden(const std::string& name) {
  auto text =
      ReadWholeFile(std::string(TAILOR_SOURCE_DIR) + "/tests/golden/scores/" + name, 1 << 20);
  EXPECT_TRUE(text.ok()) << text.status();
  return *text;
}

std::map<std::string, json> ById(const std::string& name) {
  std::map<std::string, json> records;
  std::istringstream lines(Golden(name));
  for (std::string line; std::getline(lines, line);) {
    const json record = json::parse(line);
    records[record["id"]] = record;
  }
  return records;
}

TEST(ScorerTest, EveryItemScoresAsTheOtherScorerSays) {
  std::vector<TaskItem> items;
  ASSERT_TRUE(ParseTaskItems(Golden("tasks.jsonl"), "tasks.jsonl", &items).ok());
  const auto outputs = ById("outputs.jsonl"), scores = ById("scores.jsonl");
  std::map<std::string, std::vector<double>> by_task;
  for (const TaskItem& item : items) {
    const double score =
        ScoreAnswer(outputs.at(item.id)["output"].get<std::string>(), item.answers, item.scoring);
    EXPECT_DOUBLE_EQ(score, scores.at(item.id)["score"].get<double>()) << item.id;
    by_task[item.task].push_back(score);
  }
  std::vector<std::vector<double>> groups;
  const json summary = json::parse(Golden("summary.json"));
  for (const auto& [task, values] : by_task) {
    const double mean = std::accumulate(values.begin(), values.end(), 0.0) / values.size();
    EXPECT_NEAR(100 * mean, summary["tasks"][task]["score"].get<double>(), 0.005) << task;
    groups.push_back(values);
  }
  // The other one averages means that it has rounded to 0.01.
  EXPECT_NEAR(100 * BootstrapMean(groups).mean, summary["mean_of_tasks"].get<double>(), 0.01);
}

TEST(ScorerTest, AllInIsAShareAndAnyInIsOneOrNothing) {
  const std::vector<std::string> answers = {"red", "Green", "blue"};
  EXPECT_DOUBLE_EQ(ScoreAnswer("RED and green", answers, Scoring::kAllIn), 2.0 / 3);
  EXPECT_DOUBLE_EQ(ScoreAnswer("RED and green", answers, Scoring::kAnyIn), 1);
  EXPECT_DOUBLE_EQ(ScoreAnswer("", answers, Scoring::kAllIn), 0);
  EXPECT_DOUBLE_EQ(ScoreAnswer("re d", answers, Scoring::kAnyIn), 0);
  EXPECT_DOUBLE_EQ(ScoreAnswer("bluebell", answers, Scoring::kAnyIn), 1) << "a substring counts";
}

}  // namespace
}  // namespace tailor
