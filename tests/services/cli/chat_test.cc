// The real program against a gateway in this process.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "services/exit_code.h"
#include "tests/services/cli/fake_gateway.h"
#include "tests/services/cli/run_program.h"

namespace tailor {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class ChatTest : public ::testing::Test {
 protected:
  ChatTest() {
    std::string pattern = ::testing::TempDir() + "chat_XXXXXX";
    dir_ = mkdtemp(pattern.data());
    gateway_.report.set_reused_tokens(6912);
    gateway_.report.set_prefilled_tokens(24);
    gateway_.report.set_generated_tokens(11);
    gateway_.report.set_rows_fetched(1000);
    gateway_.report.set_bytes_fetched(256000);
    gateway_.report.set_tokens_per_second(31.5);
    gateway_.report.mutable_bytes()->set_store_rows(3 << 20);
  }
  ~ChatTest() override { std::filesystem::remove_all(dir_); }

  std::vector<std::string> Command(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), TAILOR_PROGRAM);
    return arguments;
  }
  std::vector<std::string> Environment() {
    return {"TAILOR_SERVER=" + gateway_.address(), "TAILOR_RUN_DIR=" + dir_.string()};
  }
  ProgramResult Run(std::vector<std::string> arguments, const std::string& input = "") {
    return RunningProgram(Command(std::move(arguments)), Environment(), input).Wait();
  }
  std::string WriteFile(const std::string& name, const std::string& text) {
    std::ofstream(dir_ / name, std::ios::binary) << text;
    return (dir_ / name).string();
  }

  FakeGateway gateway_;
  std::filesystem::path dir_;
};

TEST_F(ChatTest, TheAnswerAloneGoesToStdout) {
  const ProgramResult result = Run({"chat", "--ask", "hi"});
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  EXPECT_EQ(result.out, "Hello, world\n");
  EXPECT_EQ(gateway_.chats().at(0).message(), "hi");
}

TEST_F(ChatTest, EachQuestionGetsItsAnswerInOneSession) {
  const ProgramResult result = Run({"chat", "--ask", "one", "--ask", "two"});
  EXPECT_EQ(result.out, "Hello, world\nHello, world\n");
  ASSERT_EQ(gateway_.chats().size(), 2u);
  EXPECT_EQ(gateway_.chats()[0].session_id(), gateway_.chats()[1].session_id());
}

TEST_F(ChatTest, JsonIsOneValidObjectALineAndNothingElse) {
  gateway_.pieces = {"quote \" and \xc3\xa4 byte", "\n\x1b[31m"};
  const ProgramResult result = Run({"chat", "--json", "--ask", "a", "--ask", "b"});
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  std::istringstream lines(result.out);
  int objects = 0;
  for (std::string line; std::getline(lines, line); ++objects) {
    const json answer = json::parse(line);
    EXPECT_EQ(answer.at("question"), objects == 0 ? "a" : "b");
    EXPECT_EQ(answer.at("session"), "s1");
    EXPECT_EQ(answer.at("finish_reason"), "stop");
    EXPECT_EQ(answer.at("session_tokens"), 42);
    EXPECT_THAT(answer.at("answer").get<std::string>(), HasSubstr("quote \" and "));
    const json& report = answer.at("report");
    EXPECT_EQ(report.at("reused_tokens"), 6912);
    EXPECT_EQ(report.at("rows_fetched_per_token"), 100.0);
    EXPECT_EQ(report.at("bytes").at("store_rows"), 3 << 20);
  }
  EXPECT_EQ(objects, 2);
}

TEST_F(ChatTest, VerboseShowsTheReportOnStderr) {
  const ProgramResult result = Run({"chat", "-v", "--ask", "hi"});
  EXPECT_EQ(result.out, "Hello, world\n");
  EXPECT_THAT(result.err, HasSubstr("6912 reused, 24 prefilled, 11 generated"));
  EXPECT_THAT(result.err, HasSubstr("31.5 tokens/s"));
  EXPECT_THAT(result.err, HasSubstr("3.0 MiB rows"));
  EXPECT_THAT(result.err, HasSubstr("100 rows, 25.0 KiB per token"));
}

TEST_F(ChatTest, SketchAndRowCacheAreShownWhereADeviceKeepsThem) {
  EXPECT_THAT(Run({"chat", "-v", "--ask", "hi"}).err, Not(HasSubstr("sketch")));
  gateway_.report.mutable_bytes()->set_sketch(5 << 20);
  gateway_.report.mutable_bytes()->set_row_cache(3 << 10);
  EXPECT_THAT(Run({"chat", "-v", "--ask", "hi"}).err,
              HasSubstr("resident, 5.0 MiB sketch, 3.0 KiB row cache; store: "));
  const json answer = json::parse(Run({"chat", "--json", "--ask", "hi"}).out);
  EXPECT_EQ(answer.at("report").at("bytes").at("sketch"), 5 << 20);
  EXPECT_EQ(answer.at("report").at("bytes").at("row_cache"), 3 << 10);
}

TEST_F(ChatTest, NoProgressBarIsDrawnWhereThereIsNoTerminal) {
  EXPECT_THAT(Run({"chat", "--ask", "hi"}).err, Not(HasSubstr("\x1b")));
}

TEST_F(ChatTest, DocumentsArriveWholeBeforeTheQuestion) {
  std::string book;
  for (int i = 0; i < 60000; ++i) book += "line " + std::to_string(i) + " äöü\n";
  const ProgramResult result = Run({"chat", "--document", WriteFile("book.txt", book), "--document",
                                    WriteFile("b.txt", "short"), "--ask", "hi"});
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  EXPECT_EQ(gateway_.documents().at("book.txt"), book);
  EXPECT_EQ(gateway_.documents().at("b.txt"), "short");
}

TEST_F(ChatTest, ADashReadsTheDocumentFromStdin) {
  const ProgramResult result = Run({"chat", "--document", "-", "--ask", "hi"}, "piped text");
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  EXPECT_EQ(gateway_.documents().at("stdin"), "piped text");
}

TEST_F(ChatTest, AMissingDocumentIsAUsageErrorAndNothingIsAsked) {
  const ProgramResult result = Run({"chat", "--document", "/no/such.txt", "--ask", "hi"});
  EXPECT_EQ(result.exit_code, kExitUsage);
  EXPECT_THAT(result.err, HasSubstr("cannot read the document /no/such.txt"));
  EXPECT_THAT(result.err, HasSubstr("next: "));
  EXPECT_THAT(gateway_.chats(), IsEmpty());
}

TEST_F(ChatTest, FlagsReachTheRequestAndAbsentOnesStayAbsent) {
  Run({"chat", "--ask", "hi", "--temperature", "0.5", "--seed", "9", "--max-tokens", "33", "--stop",
       "END", "--attention", "full"});
  const v1::ChatRequest request = gateway_.chats().at(0);
  EXPECT_EQ(request.sampling().temperature(), 0.5f);
  EXPECT_EQ(request.sampling().seed(), 9u);
  EXPECT_FALSE(request.sampling().has_top_p());
  EXPECT_EQ(request.max_tokens(), 33);
  EXPECT_THAT(request.stop(), ElementsAre("END"));
  EXPECT_EQ(request.attention(), v1::ATTENTION_MODE_FULL);
}

TEST_F(ChatTest, ANamedSessionIsStartedOnceAndThenGoneOnWith) {
  EXPECT_THAT(Run({"chat", "notes", "--ask", "one"}).err, HasSubstr("session notes"));
  EXPECT_THAT(Run({"chat", "notes", "--ask", "two"}).err, Not(HasSubstr("session notes")));
  EXPECT_EQ(gateway_.chats().at(1).session_id(), "notes");
}

// gRPC's own limit is 4 MiB; a document in the transcript may be far longer.
TEST_F(ChatTest, ASessionWithALongDocumentCanBeGoneOnWithAndShown) {
  Run({"chat", "notes", "--ask", "one"});
  gateway_.said = std::string(5 << 20, 'x');
  const ProgramResult result = Run({"chat", "notes", "--ask", "two"});
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  EXPECT_GT(Run({"sessions", "show", "notes"}).out.size(), gateway_.said.size());
}

TEST_F(ChatTest, AScriptSeesThatALineOfItsStdinFailed) {
  gateway_.chat_status = {grpc::StatusCode::DATA_LOSS, "page 3 failed its check"};
  EXPECT_EQ(Run({"chat"}, "first\n").exit_code, kExitRuntime);
  gateway_.chat_status = grpc::Status::OK;
  const ProgramResult document = Run({"chat"}, "/doc /no/such.txt\nstill asked\n");
  EXPECT_EQ(document.exit_code, kExitUsage);
  EXPECT_EQ(document.out, "Hello, world\n") << "the conversation goes on";
}

TEST_F(ChatTest, TheApiKeyIsSentAsABearerToken) {
  Run({"chat", "--api-key", "k1", "--ask", "hi"});
  EXPECT_EQ(gateway_.authorization(), "Bearer k1");
}

TEST_F(ChatTest, LinesOfStdinAreQuestionsAndCommands) {
  const ProgramResult result =
      Run({"chat"}, "first\n\n/report\n/fork copy\nsecond\n/nonsense\n/quit\nnever\n");
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  EXPECT_EQ(result.out, "Hello, world\nHello, world\n");
  EXPECT_THAT(result.err, HasSubstr("6912 reused"));
  EXPECT_THAT(result.err, HasSubstr("session copy (a fork of s1)"));
  EXPECT_THAT(result.err, HasSubstr("/doc FILE"));
  ASSERT_EQ(gateway_.chats().size(), 2u);
  EXPECT_EQ(gateway_.chats()[1].session_id(), "copy");
}

TEST_F(ChatTest, CtrlCStopsTheAnswerAndTellsTheServer) {
  gateway_.hang_after_text = true;
  RunningProgram program(Command({"chat", "--ask", "hi"}), Environment());
  ASSERT_TRUE(program.ReadUntil([](const auto& r) { return r.out.find("world") != r.out.npos; }));
  program.Signal(SIGINT);
  const ProgramResult result = program.Wait();
  EXPECT_EQ(result.exit_code, kExitInterrupted);
  EXPECT_EQ(result.out, "Hello, world\n");
  for (int i = 0; i < 1000 && !gateway_.cancelled(); ++i) usleep(5000);
  EXPECT_TRUE(gateway_.cancelled());
}

TEST_F(ChatTest, CtrlCDuringAnAnswerDoesNotEndAConversation) {
  gateway_.hang_after_text = true;
  RunningProgram program(Command({"chat"}), Environment(), "first\n/report\n");
  ASSERT_TRUE(program.ReadUntil([](const auto& r) { return r.out.find("world") != r.out.npos; }));
  program.Signal(SIGINT);
  const ProgramResult result = program.Wait();
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  EXPECT_THAT(result.err, HasSubstr("(stopped)"));
  EXPECT_THAT(result.err, HasSubstr("no answer yet")) << "the next line was still read";
}

TEST_F(ChatTest, ARefusedTurnSaysWhyAndWhatToDo) {
  gateway_.chat_status = {grpc::StatusCode::RESOURCE_EXHAUSTED,
                          "conversation has 9000 tokens, limit 8192"};
  const ProgramResult result = Run({"chat", "--ask", "hi"});
  EXPECT_EQ(result.exit_code, kExitNoMemory);
  EXPECT_THAT(result.err, HasSubstr("conversation has 9000 tokens, limit 8192"));
  EXPECT_THAT(result.err, HasSubstr("next: "));
}

TEST_F(ChatTest, WithoutAServerTheErrorNamesTailorUp) {
  const ProgramResult result = Run({"chat", "--server", "127.0.0.1:1", "--ask", "hi"});
  EXPECT_EQ(result.exit_code, kExitRuntime);
  EXPECT_THAT(result.err, HasSubstr("no answer from 127.0.0.1:1"));
  EXPECT_THAT(result.err, HasSubstr("tailor up --model"));
}

TEST_F(ChatTest, UsageErrorsExitWithTwoAndHelpWithZero) {
  EXPECT_EQ(Run({}).exit_code, kExitUsage);
  EXPECT_EQ(Run({"chat", "--no-such-flag"}).exit_code, kExitUsage);
  EXPECT_EQ(Run({"chat", "--max-tokens", "0"}).exit_code, kExitUsage);
  EXPECT_EQ(Run({"chat", "--attention", "half"}).exit_code, kExitUsage);
  for (const char* command : {"up", "down", "chat", "sessions", "status"}) {
    const ProgramResult help = Run({command, "--help"});
    EXPECT_EQ(help.exit_code, kExitOk);
    EXPECT_THAT(help.out, HasSubstr("Examples:")) << command;
  }
  EXPECT_THAT(Run({"version"}).out, HasSubstr("tailor "));
}

TEST_F(ChatTest, SessionsAreListedOverAllPagesTheLastUsedFirst) {
  for (const char* name : {"a", "b", "c"}) Run({"chat", name, "--ask", "hi"});
  const ProgramResult table = Run({"sessions"});
  EXPECT_EQ(table.exit_code, kExitOk) << table.err;
  EXPECT_EQ(std::count(table.out.begin(), table.out.end(), '\n'), 4);
  EXPECT_THAT(table.out, Not(HasSubstr("\x1b"))) << "titles are not to be trusted";
  const ProgramResult lines = Run({"sessions", "list", "--json"});
  std::istringstream stream(lines.out);
  std::vector<std::string> ids;
  for (std::string line; std::getline(stream, line);) ids.push_back(json::parse(line).at("id"));
  EXPECT_THAT(ids, ElementsAre("c", "b", "a"));
}

TEST_F(ChatTest, SessionsCanBeShownForkedAndDeleted) {
  Run({"chat", "a", "--ask", "hi"});
  EXPECT_THAT(Run({"sessions", "show", "a"}).out, HasSubstr("a question"));
  const json shown = json::parse(Run({"sessions", "show", "a", "--json"}).out);
  EXPECT_EQ(shown.at("transcript").at(0).at("role"), "user");
  EXPECT_EQ(shown.at("attention"), "default") << "nobody chose";
  EXPECT_EQ(Run({"sessions", "fork", "a", "b"}).out, "b\n");
  EXPECT_EQ(Run({"sessions", "delete", "a"}).out, "deleted a\n");
  const ProgramResult gone = Run({"sessions", "delete", "a"});
  EXPECT_EQ(gone.exit_code, kExitRuntime);
  EXPECT_THAT(gone.err, HasSubstr("there is no session a"));
  EXPECT_THAT(gone.err, HasSubstr("`tailor sessions` lists"));
}

TEST_F(ChatTest, StatusWithoutARunningServerIsAnErrorAndStillJson) {
  const ProgramResult result = Run({"status", "--json"});
  EXPECT_EQ(result.exit_code, kExitRuntime);
  EXPECT_EQ(json::parse(result.out).at("running"), false);
  EXPECT_THAT(result.err, HasSubstr("tailor up --model"));
}

}  // namespace
}  // namespace tailor
