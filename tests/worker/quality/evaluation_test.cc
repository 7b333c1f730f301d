// Whole evaluations of a tiny model: resumed, interrupted, refused.
#include "worker/quality/evaluation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "tests/support/tiny_model.h"

namespace tailor {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::Status NoProgress(const std::string&, int64_t, int64_t) { return absl::OkStatus(); }

std::string Item(const std::string& id, const std::string& task, int words, int max_tokens = 6) {
  std::string prompt;
  for (int i = 0; i < words; ++i) prompt += "word" + std::to_string(i * 7 % 100) + " ";
  return json{{"id", id},
              {"task", task},
              {"prompt", prompt},
              {"answers", {"a"}},
              {"scoring", "any_in"},
              {"max_tokens", max_tokens},
              {"answer_prefix", "So:"}}
             .dump() +
         "\n";
}

class EvaluationTest : public ::testing::Test {
 protected:
  EvaluationTest() {
    WriteTinyModel(dir_ / "tiny.gguf", {.embedding_scale = 0.1f});
    Write("tasks.jsonl", Item("x-1", "x", 60) + Item("x-2", "x", 70) + Item("y-1", "y", 65));
    options_.tasks = {dir_ / "tasks.jsonl"};
    options_.methods = {"hybrid", "window"};
    options_.threads = 1;
    options_.out = dir_ / "out";
  }
  void Write(const char* name, const std::string& text) { std::ofstream(dir_ / name) << text; }
  std::string Text(const std::string& path) { return *ReadWholeFile(dir_ / path.c_str(), 1 << 20); }

  absl::StatusOr<EvaluationResult> Run(const ProgressFn& progress = NoProgress,
                                       int32_t top_k = 128) {
    auto file = *ModelFile::Open(dir_ / "tiny.gguf");
    LayerPolicy policy =
        LayerPolicy::Default(file->name(), file->fingerprint(), file->hyperparameters());
    policy.select.top_k = top_k;
    TS_ASSIGN_OR_RETURN(auto plan, Evaluation::Plan(std::move(file), policy, options_));
    return plan->Run(progress);
  }

  ScratchDir dir_;
  EvaluationOptions options_;
};

std::vector<std::string> Ids(const std::string& lines) {
  std::vector<std::string> ids;
  std::istringstream stream(lines);
  for (std::string line; std::getline(stream, line);) ids.push_back(json::parse(line)["id"]);
  return ids;
}

TEST_F(EvaluationTest, EveryMethodAnswersEveryItemAndFullIsTheYardstick) {
  const auto result = Run();
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_TRUE(result->tasks.has_value());
  EXPECT_EQ(result->tasks->items, 3);
  ASSERT_EQ(result->tasks->methods.size(), 3u);
  EXPECT_EQ(result->tasks->methods[0].first, "full");
  EXPECT_EQ(result->tasks->methods[0].second.overall.difference.mean, 0);
  EXPECT_EQ(result->tasks->methods[0].second.tasks.at("x").difference.interval->high, 0);
  EXPECT_EQ(result->tasks->methods[1].second.tasks.at("x").items, 2);
  for (const char* method : {"full", "hybrid", "window"}) {
    EXPECT_THAT(Ids(Text("out/answers/" + std::string(method) + ".jsonl")),
                ElementsAre("x-1", "x-2", "y-1"));
  }
  EXPECT_NE(Text("out/answers/full.jsonl"), Text("out/answers/window.jsonl"));
}

TEST_F(EvaluationTest, WhatIsAnsweredIsNotAnsweredAgain) {
  ASSERT_TRUE(Run().ok());
  const std::string window = Text("out/answers/window.jsonl");
  // Marks that no model would write, one item missing.
  std::ofstream(dir_ / "out/answers/full.jsonl") << R"({"id":"x-1","output":"kept, a"})"
                                                 << "\n"
                                                 << R"({"id":"y-1","output":"kkk"})"
                                                 << "\n";
  int prefills = 0;
  const auto result = Run([&](const std::string& label, int64_t, int64_t) {
    prefills += label.find("prefill 100%") != label.npos;
    return absl::OkStatus();
  });
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(prefills, 1) << "only the missing item's";
  EXPECT_THAT(Ids(Text("out/answers/full.jsonl")), ElementsAre("x-1", "y-1", "x-2"));
  EXPECT_THAT(Text("out/answers/full.jsonl"), HasSubstr("kept, a"));
  EXPECT_EQ(Text("out/answers/window.jsonl"), window);
  EXPECT_EQ(result->tasks->methods[0].second.tasks.at("y").score.mean, 0) << "scored as kept";
}

TEST_F(EvaluationTest, ARunWithNothingLeftToMeasureSumsUpWhatThereIs) {
  const auto first = Run();
  ASSERT_TRUE(first.ok());
  const auto again = Run([](const std::string&, int64_t, int64_t) {
    return absl::InternalError("nothing was to be measured");
  });
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->tasks->methods[1].second.overall.score.mean,
            first->tasks->methods[1].second.overall.score.mean);
}

TEST_F(EvaluationTest, AnInterruptedRunGoesOnAsIfNothingHadBeen) {
  options_.methods = {"hybrid", "random"};
  ASSERT_TRUE(Run().ok());
  const std::string whole = Text("out/answers/random.jsonl");
  options_.out = dir_ / "again";
  for (const int steps : {9, 20, 31}) {
    int step = 0;
    const auto stopped = Run([&](const std::string&, int64_t, int64_t) {
      return ++step > steps ? absl::CancelledError("stop") : absl::OkStatus();
    });
    EXPECT_EQ(stopped.status().code(), absl::StatusCode::kCancelled) << steps;
  }
  ASSERT_TRUE(Run().ok());
  EXPECT_EQ(Text("again/answers/random.jsonl"), whole);
}

TEST_F(EvaluationTest, AnotherPolicyOrAnotherTaskFileIsRefused) {
  ASSERT_TRUE(Run().ok());
  const auto policy = Run(NoProgress, /*top_k=*/64);
  EXPECT_EQ(policy.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(policy.status().message()), HasSubstr("policy"));
  Write("tasks.jsonl", Item("x-1", "x", 61));
  const auto tasks = Run();
  EXPECT_EQ(tasks.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(tasks.status().message()), HasSubstr("its tasks is"));
}

TEST_F(EvaluationTest, AnotherModelIsRefused) {
  ASSERT_TRUE(Run().ok());
  WriteTinyModel(dir_ / "tiny.gguf", {.seed = 2});
  const auto other = Run();
  EXPECT_EQ(other.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(other.status().message()), HasSubstr("holds results of another run"));
}

TEST_F(EvaluationTest, ItemsLongerThanTheContextAreLeftOutAndNamed) {
  Write("tasks.jsonl", Item("short", "x", 60) + Item("long", "x", 60, 4000));
  const auto result = Run();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->tasks->items, 1);
  EXPECT_THAT(result->tasks->skipped, ElementsAre("long"));
  Write("tasks.jsonl", Item("long", "x", 60, 4000));
  options_.out = dir_ / "other";
  EXPECT_THAT(std::string(Run().status().message()), HasSubstr("context of 4096 tokens"));
}

TEST_F(EvaluationTest, TheFirstTokenOfAnAnswerIsThePrefillsForEveryMethod) {
  Write("tasks.jsonl", Item("x-1", "x", 60, 1) + Item("x-2", "x", 70, 1));
  ASSERT_TRUE(Run().ok());
  EXPECT_EQ(Text("out/answers/full.jsonl"), Text("out/answers/window.jsonl"));
}

TEST_F(EvaluationTest, TextWindowsAreResumedLikeItems) {
  std::string text;
  for (int i = 0; i < 400; ++i) text += "line " + std::to_string(i * i % 977) + "\n";
  Write("text.txt", text);
  options_.tasks.clear();
  options_.texts = {dir_ / "text.txt"};
  options_.text = {.context_tokens = 500, .decode_tokens = 4, .windows = 3};
  const auto whole = Run();
  ASSERT_TRUE(whole.ok()) << whole.status();
  options_.out = dir_ / "again";
  const auto stopped = Run([](const std::string&, int64_t done, int64_t) {
    return done == 2 ? absl::CancelledError("stop") : absl::OkStatus();
  });
  ASSERT_EQ(stopped.status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(Ids(Text("again/text/hybrid.jsonl")).size(), 2u);
  options_.methods.push_back("quest");  // another method may join; what is there stays
  const auto resumed = Run();
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  ASSERT_EQ(resumed->text->methods.size(), 3u);
  EXPECT_EQ(resumed->text->methods[0].second.kl.mean, whole->text->methods[0].second.kl.mean);
  EXPECT_EQ(resumed->text->methods[2].second.windows, 3);
  options_.text.decode_tokens = 5;
  EXPECT_EQ(Run().status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(EvaluationTest, MistakesShowBeforeTheWeightsAreLoaded) {
  const auto message = [&] { return std::string(Run().status().message()); };
  options_.methods = {"best"};
  EXPECT_THAT(message(), HasSubstr("method best is none of full, hybrid"));
  options_.methods = {"hybrid"};
  options_.texts = {dir_ / "none.txt"};
  EXPECT_THAT(message(), HasSubstr("none.txt"));
  Write("short.txt", "too short");
  options_.texts = {dir_ / "short.txt"};
  EXPECT_THAT(message(), HasSubstr("short.txt: text has 9 tokens"));
  options_.text.context_tokens = 5000;
  EXPECT_THAT(message(), HasSubstr("the model's context is 4096"));
}

}  // namespace
}  // namespace tailor
