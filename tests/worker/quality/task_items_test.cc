#include "worker/quality/task_items.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tailor {
namespace {

using ::testing::HasSubstr;

constexpr char kItem[] =
    R"({"id": "a-1", "task": "a", "prompt": "p", "answers": ["x"], "scoring": "any_in", )"
    R"("max_tokens": 5, "meta": {"seed": 1}})";

std::string ErrorOf(const std::string& text) {
  std::vector<TaskItem> items;
  return std::string(ParseTaskItems(text, "f", &items).message());
}

std::string Replaced(std::string text, const std::string& from, const std::string& to) {
  text.replace(text.find(from), from.size(), to);
  return text;
}

TEST(TaskItemsTest, AnItemIsReadAndUnknownFieldsAreLeftAlone) {
  std::vector<TaskItem> items;
  ASSERT_TRUE(ParseTaskItems(std::string(kItem) + "\n\n", "f", &items).ok());
  ASSERT_EQ(items.size(), 1u);
  EXPECT_EQ(items[0].id, "a-1");
  EXPECT_EQ(items[0].answers, std::vector<std::string>{"x"});
  EXPECT_EQ(items[0].scoring, Scoring::kAnyIn);
  EXPECT_EQ(items[0].max_tokens, 5);
  EXPECT_EQ(items[0].answer_prefix, "");
}

TEST(TaskItemsTest, MistakesAreNamedWithFileAndLine) {
  EXPECT_THAT(ErrorOf("\n" + std::string(kItem) + "\nnonsense\n"), HasSubstr("f:3: "));
  EXPECT_THAT(ErrorOf(std::string(kItem) + "\n" + kItem), HasSubstr("f:2: id a-1 is there twice"));
  EXPECT_THAT(ErrorOf(Replaced(kItem, "any_in", "fuzzy")), HasSubstr("scoring is fuzzy"));
  EXPECT_THAT(ErrorOf(Replaced(kItem, "[\"x\"]", "[]")), HasSubstr("answers"));
  EXPECT_THAT(ErrorOf(Replaced(kItem, "[\"x\"]", "[1]")), HasSubstr("answers"));
  EXPECT_THAT(ErrorOf(Replaced(kItem, "\"max_tokens\": 5", "\"max_tokens\": 0")),
              HasSubstr("max_tokens is 0, limit 1..65536"));
  EXPECT_THAT(ErrorOf(Replaced(kItem, "prompt", "text")), HasSubstr("no field prompt"));
  EXPECT_THAT(ErrorOf(R"({"id": "c", "turns": []})"), HasSubstr("not a task item"));
}

TEST(TaskItemsTest, IdsAreUniqueAcrossFiles) {
  std::vector<TaskItem> items;
  ASSERT_TRUE(ParseTaskItems(kItem, "f", &items).ok());
  EXPECT_FALSE(ParseTaskItems(kItem, "g", &items).ok());
}

TEST(TaskItemsTest, TheLimitCountsEachTaskForItself) {
  std::vector<TaskItem> items(5);
  for (size_t i = 0; i < items.size(); ++i) {
    items[i].id = std::to_string(i);
    items[i].task = i < 4 ? "a" : "b";
  }
  const auto limited = LimitItems(items, 2);
  ASSERT_EQ(limited.size(), 3u);
  EXPECT_EQ(limited[1].id, "1");
  EXPECT_EQ(limited[2].id, "4");
  EXPECT_EQ(LimitItems(items, 0).size(), 5u);
}

}  // namespace
}  // namespace tailor
