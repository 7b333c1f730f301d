// `tailor calibrate` itself, on a tiny model of random weights.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "services/exit_code.h"
#include "services/worker/policy_source.h"
#include "tests/services/cli/report/markup.h"
#include "tests/services/cli/run_program.h"
#include "tests/support/tiny_model.h"

namespace tailor {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class CalibrateTest : public ::testing::Test {
 protected:
  CalibrateTest() {
    WriteTinyModel(dir_ / "tiny.gguf", {.embedding_scale = 0.1f});
    std::ofstream text(dir_ / "text.txt");
    for (int i = 0; i < 300; ++i) text << "line " << i * i % 977 << "\n";
  }

  std::string Path(const char* name) const { return (dir_ / name).string(); }
  // "calibrate MODEL --text TEXT --out OUT" and these.
  RunningProgram Run(const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {TAILOR_PROGRAM, "calibrate",      Path("tiny.gguf"),
                                          "--text",       Path("text.txt"), "--out",
                                          Path("out"),    "--threads",      "1"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return RunningProgram(arguments, {});
  }
  // With small windows.
  RunningProgram Calibrate(const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"--context", "500", "--decode", "3", "--windows", "1"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return Run(arguments);
  }
  std::string Text(const std::string& name) const {
    std::ifstream file(dir_.path() / name);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }
  std::string PolicyName() const {
    return (*ModelFile::Open(dir_ / "tiny.gguf"))->fingerprint().ToHex() + ".json";
  }

  ScratchDir dir_;
};

TEST_F(CalibrateTest, ThePolicyIsWrittenWithItsEvidenceAndFoundByAWorker) {
  const ProgramResult result = Calibrate({}).Wait();
  ASSERT_EQ(result.exit_code, kExitOk) << result.err;
  const std::filesystem::path policy = dir_.path() / "out" / PolicyName();
  EXPECT_THAT(result.err, AllOf(HasSubstr("next: tailor up --model " + Path("tiny.gguf") +
                                          " --policy " + policy.string())));
  const auto file = *ModelFile::Open(dir_ / "tiny.gguf");
  const auto chosen = ChoosePolicy({.model = dir_ / "tiny.gguf", .policy_dir = dir_ / "out"},
                                   file->name(), file->fingerprint(), file->hyperparameters());
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  EXPECT_EQ(chosen->source, policy.string());
  ASSERT_NE(chosen->policy.calibration, nullptr);
  EXPECT_EQ(chosen->policy.calibration->scores.size(), 4u);
  EXPECT_EQ(chosen->policy.calibration->texts[0].name, "text.txt");
}

TEST_F(CalibrateTest, TheReportsListEveryPolicyTriedAndEveryLayer) {
  const ProgramResult result = Calibrate({}).Wait();
  ASSERT_EQ(result.exit_code, kExitOk) << result.err;
  EXPECT_EQ(result.out, Text("out/report.md"));
  EXPECT_THAT(result.out, AllOf(HasSubstr("Limits: fetched at most"), HasSubstr("| chosen "),
                                HasSubstr("## Held out"), HasSubstr("Dense by the rule")));
  const json report = json::parse(Text("out/report.json"));
  const json policy = json::parse(Text("out/" + PolicyName()));
  EXPECT_EQ(report["policy"], policy);
  ASSERT_GE(report["tried"].size(), 8u);
  EXPECT_EQ(report["tried"].size(), policy["evidence"]["tried"].size());
  for (const json& tried : report["tried"]) {
    EXPECT_THAT(result.out, HasSubstr("| " + tried["step"].get<std::string>() + " "));
  }
  const json& chosen = report["tried"][report["chosen"].get<size_t>()];
  EXPECT_EQ(chosen["fingerprint"], policy["evidence"]["policy"]);
  EXPECT_EQ(chosen["fetched_bytes_per_token"], policy["evidence"]["fetched_bytes_per_token"]);
  EXPECT_EQ(report["held_out"]["kl_nats_per_token"],
            policy["evidence"]["held_out"]["kl_nats_per_token"]);
  EXPECT_EQ(report["held_out"]["recall"].size(), 4u);
}

TEST_F(CalibrateTest, ThePageIsWellFormedAndStandsAlone) {
  ASSERT_EQ(Calibrate({}).Wait().exit_code, kExitOk);
  const std::string html = Text("out/report.html");
  EXPECT_EQ(MarkupError(html), "");
  size_t plots = 0;
  for (size_t at = html.find("<svg"); at != html.npos; at = html.find("<svg", at + 1)) ++plots;
  EXPECT_EQ(plots, 3u);
  EXPECT_THAT(html,
              AllOf(Not(HasSubstr("<script")), Not(HasSubstr("src=")), Not(HasSubstr("href=")),
                    HasSubstr("Quality against fetched bytes"),
                    HasSubstr("Dense preference per layer"), HasSubstr("Mass recall per layer")));
}

TEST_F(CalibrateTest, LimitsAreKeptAndASecondRunTakesUpTheFirst) {
  ASSERT_EQ(Calibrate({}).Wait().exit_code, kExitOk);
  const std::string log = Text("out/measured/measured.jsonl");
  // Three sparse layers, 2 KV heads, rows of 256 bytes: at most 50 rows.
  const ProgramResult limited = Calibrate({"--max-fetched-bytes", "75KiB"}).Wait();
  ASSERT_EQ(limited.exit_code, kExitOk) << limited.err;
  EXPECT_EQ(Text("out/measured/measured.jsonl").substr(0, log.size()), log);
  const json policy = json::parse(Text("out/" + PolicyName()));
  EXPECT_LE(policy["evidence"]["fetched_bytes_per_token"], 75 * 1024);
  EXPECT_EQ(policy["evidence"]["max_fetched_bytes_per_token"], 75 * 1024);
}

TEST_F(CalibrateTest, ALimitThatNothingKeepsWritesNoPolicyAndSaysSo) {
  const ProgramResult result = Calibrate({"--max-kl", "1e-12"}).Wait();
  EXPECT_EQ(result.exit_code, kExitRuntime);
  EXPECT_THAT(result.err, AllOf(HasSubstr("keeps the limits"), HasSubstr("raise --max-kl")));
  EXPECT_THAT(result.out, HasSubstr("no policy file was written"));
  EXPECT_FALSE(std::filesystem::exists(dir_.path() / "out" / PolicyName()));
  EXPECT_TRUE(std::filesystem::exists(dir_ / "out/report.html"));
}

TEST_F(CalibrateTest, CtrlCLeavesAFolderThatTheSameCommandTakesUp) {
  // So much to measure that it does not end before the signal.
  std::ofstream text(dir_ / "text.txt");
  for (int i = 0; i < 6000; ++i) text << "line " << i % 977 << "\n";
  text.close();
  const std::vector<std::string> arguments = {"--context", "400",       "--decode",
                                              "64",        "--windows", "40"};
  const auto longer_than = [&](size_t bytes) {
    return [this, bytes](const ProgramResult&) {
      return Text("out/measured/measured.jsonl").size() > bytes;
    };
  };
  RunningProgram running = Run(arguments);
  ASSERT_TRUE(running.ReadUntil(longer_than(0)));
  running.Signal(SIGINT);
  const ProgramResult stopped = running.Wait();
  ASSERT_EQ(stopped.exit_code, kExitInterrupted) << stopped.err;
  EXPECT_THAT(stopped.err, AllOf(HasSubstr("interrupted at"), HasSubstr("goes on where")));
  EXPECT_FALSE(std::filesystem::exists(dir_ / "out/report.json"));
  const std::string kept = Text("out/measured/measured.jsonl");
  RunningProgram again = Run(arguments);
  ASSERT_TRUE(again.ReadUntil(longer_than(kept.size())));
  again.Signal(SIGINT);
  EXPECT_EQ(again.Wait().exit_code, kExitInterrupted);
  EXPECT_EQ(Text("out/measured/measured.jsonl").substr(0, kept.size()), kept);
}

TEST_F(CalibrateTest, MistakesHaveTheirExitCodesAndSayWhatToDo) {
  const ProgramResult nothing =
      RunningProgram({TAILOR_PROGRAM, "calibrate", Path("tiny.gguf")}, {}).Wait();
  EXPECT_EQ(nothing.exit_code, kExitUsage);
  EXPECT_THAT(nothing.err, HasSubstr("--text"));
  const ProgramResult window = Run({"--context", "5000", "--decode", "3"}).Wait();
  EXPECT_EQ(window.exit_code, kExitUsage);
  EXPECT_THAT(window.err, AllOf(HasSubstr("5004"), HasSubstr("4096")));
  const ProgramResult model =
      RunningProgram({TAILOR_PROGRAM, "calibrate", Path("none.gguf"), "--text", Path("text.txt")},
                     {})
          .Wait();
  EXPECT_EQ(model.exit_code, kExitBadModel);
  EXPECT_THAT(model.err, HasSubstr("none.gguf"));
  const ProgramResult negative = Calibrate({"--max-kl", "-1"}).Wait();
  EXPECT_EQ(negative.exit_code, kExitUsage);
}

TEST_F(CalibrateTest, TheCommandIsInTheHelpAndItsOwnHelpHasExamples) {
  EXPECT_THAT(RunningProgram({TAILOR_PROGRAM, "--help"}, {}).Wait().out, HasSubstr("calibrate"));
  const ProgramResult help = RunningProgram({TAILOR_PROGRAM, "calibrate", "--help"}, {}).Wait();
  EXPECT_EQ(help.exit_code, kExitOk);
  EXPECT_THAT(help.out, AllOf(HasSubstr("Examples:"),
                              HasSubstr("tailor calibrate model.gguf --text book.txt --max-kl")));
}

}  // namespace
}  // namespace tailor
