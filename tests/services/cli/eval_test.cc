// `tailor eval` itself, on a tiny model of random weights.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "services/exit_code.h"
#include "tests/services/cli/report/markup.h"
#include "tests/services/cli/run_program.h"
#include "tests/support/tiny_model.h"

namespace tailor {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

std::string Item(const std::string& id, const std::string& task, int words) {
  std::string prompt;
  for (int i = 0; i < words; ++i) prompt += "word" + std::to_string(i * 7 % 100) + " ";
  return json{{"id", id},         {"task", task},        {"prompt", prompt},
              {"answers", {"a"}}, {"scoring", "any_in"}, {"max_tokens", 8}}
             .dump() +
         "\n";
}

class EvalTest : public ::testing::Test {
 protected:
  EvalTest() {
    WriteTinyModel(dir_ / "tiny.gguf", {.embedding_scale = 0.1f});
    std::ofstream(dir_ / "tasks.jsonl") << Item("x-1", "x", 60) << Item("y-1", "y<&>", 70);
    std::ofstream text(dir_ / "text.txt");
    for (int i = 0; i < 300; ++i) text << "line " << i * i % 977 << "\n";
  }

  std::string Path(const char* name) const { return (dir_ / name).string(); }
  // Arguments after "eval MODEL --out OUT --threads 1".
  RunningProgram Eval(std::vector<std::string> more) {
    std::vector<std::string> arguments = {
        TAILOR_PROGRAM, "eval", Path("tiny.gguf"), "--out", Path("out"), "--threads", "1"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return RunningProgram(arguments, {});
  }
  ProgramResult RunBoth() {
    return Eval({"--tasks", Path("tasks.jsonl"), "--text", Path("text.txt"), "--context", "500",
                 "--decode", "4", "--windows", "2", "--methods", "full,hybrid,quantized"})
        .Wait();
  }
  std::string Text(const char* name) const {
    std::ifstream file(dir_ / name);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }

  ScratchDir dir_;
};

TEST_F(EvalTest, TheReportsHoldTheSameRun) {
  const ProgramResult result = RunBoth();
  ASSERT_EQ(result.exit_code, kExitOk) << result.err;
  EXPECT_EQ(result.out, Text("out/report.md"));
  EXPECT_THAT(result.out,
              AllOf(HasSubstr("| mean of tasks"), HasSubstr("| hybrid "),
                    HasSubstr("KL (nats/token)"), HasSubstr("Policy (built-in default)")));
  const json report = json::parse(Text("out/report.json"));
  EXPECT_EQ(report["tasks"]["items"], 2);
  EXPECT_EQ(report["tasks"]["methods"].size(), 3u);
  EXPECT_EQ(report["tasks"]["methods"]["hybrid"]["tasks"].size(), 2u);
  EXPECT_TRUE(report["tasks"]["methods"]["hybrid"]["overall"]["score"]["low"].is_null())
      << "one item a task: no interval";
  EXPECT_EQ(report["text"]["methods"]["hybrid"]["tokens"], 8);
  EXPECT_EQ(report["text"]["methods"]["hybrid"]["layers"].size(), 4u);
  EXPECT_TRUE(report["text"]["methods"]["hybrid"]["layers"][0]["recall_mean"].is_null());
  EXPECT_TRUE(report["text"]["methods"]["hybrid"]["layers"][1]["recall_mean"].is_number());
  EXPECT_EQ(report["model"]["weights"].get<std::string>().size(), 64u);
}

TEST_F(EvalTest, ThePageIsWellFormedAndStandsAlone) {
  ASSERT_EQ(RunBoth().exit_code, kExitOk);
  const std::string html = Text("out/report.html");
  EXPECT_EQ(MarkupError(html), "");
  size_t plots = 0;
  for (size_t at = html.find("<svg"); at != html.npos; at = html.find("<svg", at + 1)) ++plots;
  EXPECT_EQ(plots, 3u);
  EXPECT_THAT(html, AllOf(Not(HasSubstr("<script")), Not(HasSubstr("src=")),
                          Not(HasSubstr("href=")), HasSubstr("y&lt;&amp;&gt;")));
}

TEST_F(EvalTest, ASecondRunTakesUpTheFirstAndAForeignOneIsRefused) {
  ASSERT_EQ(RunBoth().exit_code, kExitOk);
  const std::string answers = Text("out/answers/hybrid.jsonl"), report = Text("out/report.json");
  ASSERT_EQ(RunBoth().exit_code, kExitOk);
  EXPECT_EQ(Text("out/answers/hybrid.jsonl"), answers);
  EXPECT_EQ(Text("out/report.json"), report);
  std::ofstream(dir_ / "tasks.jsonl") << Item("x-1", "x", 61);
  const ProgramResult foreign = RunBoth();
  EXPECT_EQ(foreign.exit_code, kExitUsage);
  EXPECT_THAT(foreign.err, AllOf(HasSubstr("holds results of another run"), HasSubstr("--out")));
  EXPECT_EQ(Text("out/answers/hybrid.jsonl"), answers);
}

TEST_F(EvalTest, CtrlCLeavesAFolderThatTheSameCommandTakesUp) {
  // So many windows that it does not end before the signal.
  std::ofstream text(dir_ / "text.txt");
  for (int i = 0; i < 60000; ++i) text << "line " << i % 977 << "\n";
  text.close();
  const std::vector<std::string> arguments = {
      "--text", Path("text.txt"), "--context", "400",       "--decode",
      "2",      "--windows",      "1000",      "--methods", "hybrid"};
  RunningProgram running = Eval(arguments);
  const auto longer_than = [&](size_t bytes) {
    return [this, bytes](const ProgramResult&) {
      return Text("out/text/hybrid.jsonl").size() > bytes;
    };
  };
  ASSERT_TRUE(running.ReadUntil(longer_than(0)));
  running.Signal(SIGINT);
  const ProgramResult result = running.Wait();
  EXPECT_EQ(result.exit_code, kExitInterrupted);
  EXPECT_THAT(result.err, AllOf(HasSubstr("interrupted at"), HasSubstr("goes on where")));
  const std::string kept = Text("out/text/hybrid.jsonl");
  EXPECT_EQ(kept.back(), '\n');
  EXPECT_FALSE(std::filesystem::exists(dir_ / "out/report.json"));
  RunningProgram again = Eval(arguments);
  ASSERT_TRUE(again.ReadUntil(longer_than(kept.size())));
  again.Signal(SIGINT);
  EXPECT_EQ(again.Wait().exit_code, kExitInterrupted);
  EXPECT_EQ(Text("out/text/hybrid.jsonl").substr(0, kept.size()), kept);
}

TEST_F(EvalTest, MistakesHaveTheirExitCodesAndSayWhatToDo) {
  const ProgramResult nothing = Eval({}).Wait();
  EXPECT_EQ(nothing.exit_code, kExitUsage);
  EXPECT_THAT(nothing.err, HasSubstr("give --tasks FILE or --text FILE"));
  const ProgramResult method = Eval({"--text", Path("text.txt"), "--methods", "best"}).Wait();
  EXPECT_EQ(method.exit_code, kExitUsage);
  EXPECT_THAT(method.err, AllOf(HasSubstr("best"), HasSubstr("hybrid")));
  const ProgramResult window = Eval({"--text", Path("text.txt"), "--context", "5000"}).Wait();
  EXPECT_EQ(window.exit_code, kExitUsage);
  EXPECT_THAT(window.err, AllOf(HasSubstr("5129"), HasSubstr("4096")));
  const ProgramResult model =
      RunningProgram({TAILOR_PROGRAM, "eval", Path("none.gguf"), "--text", Path("text.txt")}, {})
          .Wait();
  EXPECT_EQ(model.exit_code, kExitBadModel);
  EXPECT_THAT(model.err, HasSubstr("none.gguf"));
  std::ofstream(dir_ / "bad.jsonl") << "{}\n";
  const ProgramResult tasks = Eval({"--tasks", Path("bad.jsonl")}).Wait();
  EXPECT_EQ(tasks.exit_code, kExitUsage);
  EXPECT_THAT(tasks.err, HasSubstr("bad.jsonl:1: no field id"));
  std::ofstream(dir_ / "policy.json") << "{}";
  const ProgramResult policy =
      Eval({"--text", Path("text.txt"), "--policy", Path("policy.json")}).Wait();
  EXPECT_EQ(policy.exit_code, kExitBadModel);
  EXPECT_THAT(policy.err, HasSubstr("policy.json"));
}

TEST_F(EvalTest, AFlagTakesOneValueSoThatTheModelMayComeLast) {
  const ProgramResult result =
      RunningProgram(
          {TAILOR_PROGRAM, "eval", "--tasks", Path("tasks.jsonl"), "--limit", "1", "--methods",
           "hybrid", "--threads", "1", "--out", Path("out"), Path("tiny.gguf")},
          {})
          .Wait();
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
}

TEST_F(EvalTest, TheCommandIsInTheHelpAndItsOwnHelpHasExamples) {
  EXPECT_THAT(RunningProgram({TAILOR_PROGRAM, "--help"}, {}).Wait().out, HasSubstr("eval"));
  const ProgramResult help = RunningProgram({TAILOR_PROGRAM, "eval", "--help"}, {}).Wait();
  EXPECT_EQ(help.exit_code, kExitOk);
  EXPECT_THAT(help.out, AllOf(HasSubstr("Examples:"), HasSubstr("tailor eval model.gguf --text")));
}

}  // namespace
}  // namespace tailor
