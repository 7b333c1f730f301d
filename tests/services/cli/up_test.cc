// `tailor up` with stand-ins for the three processes: shell scripts in a --bin-dir.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "services/cli/process/run_dir.h"
#include "services/exit_code.h"
#include "tests/services/cli/run_program.h"

namespace tailor {
namespace {

using ::testing::HasSubstr;

constexpr char kServes[] = "echo ready >&3; exec sleep 600";

// A port nobody listens on; `keep` holds it when given.
int FreePort(int* keep = nullptr) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  bind(fd, reinterpret_cast<sockaddr*>(&address), size);
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  if (keep != nullptr) {
    listen(fd, 1);
    *keep = fd;
  } else {
    close(fd);
  }
  return ntohs(address.sin_port);
}

class UpTest : public ::testing::Test {
 protected:
  UpTest() {
    std::string pattern = ::testing::TempDir() + "up_XXXXXX";
    dir_ = mkdtemp(pattern.data());
    std::ofstream(dir_ / "model.gguf") << "GGUF";
    for (const char* name : {"kvstore", "worker", "gateway"}) Program(name, kServes);
  }
  ~UpTest() override {
    Command({"down"}).Wait();  // whatever a failed test left
    std::filesystem::remove_all(dir_);
  }

  void Program(const std::string& name, const std::string& script) {
    const std::filesystem::path path = dir_ / ("tailor-" + name);
    std::ofstream(path) << "#!/bin/sh\necho \"$0 $*\" >>" << (dir_ / "calls").string() << "\n"
                        << script << "\n";
    std::filesystem::permissions(path, std::filesystem::perms::owner_all);
  }
  RunningProgram Command(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), TAILOR_PROGRAM);
    return RunningProgram(arguments, {"TAILOR_RUN_DIR=" + (dir_ / "run").string(),
                                      "TAILOR_BIN_DIR=" + dir_.string()});
  }
  RunningProgram Up(std::vector<std::string> more = {}) {
    std::vector<std::string> arguments = {"up",
                                          "--model",
                                          (dir_ / "model.gguf").string(),
                                          "--port",
                                          std::to_string(port_),
                                          "--arena-bytes",
                                          "1MiB",
                                          "--stop-timeout",
                                          "5"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return Command(arguments);
  }
  static bool Ready(const ProgramResult& r) { return r.out.find("Ctrl-C") != r.out.npos; }
  RunState State() { return *RunDir::View(dir_ / "run").ReadState(); }
  static bool Alive(pid_t pid) { return kill(pid, 0) == 0; }
  std::string Text(const std::filesystem::path& path) {
    std::ifstream file(path);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }

  std::filesystem::path dir_;
  int port_ = FreePort();
};

TEST_F(UpTest, AllThreeStartAndASignalStopsThemInOrder) {
  RunningProgram up = Up();
  ASSERT_TRUE(up.ReadUntil(Ready));
  const RunState state = State();
  ASSERT_EQ(state.processes.size(), 3u);
  up.Signal(SIGINT);
  const ProgramResult result = up.Wait();
  EXPECT_EQ(result.exit_code, kExitOk);
  EXPECT_THAT(result.out, HasSubstr("tailor chat"));
  const size_t gateway = result.err.find("gateway stopped"),
               worker = result.err.find("worker stopped"),
               kvstore = result.err.find("kvstore stopped");
  EXPECT_LT(gateway, worker);
  EXPECT_LT(worker, kvstore);
  EXPECT_NE(kvstore, std::string::npos);
  for (const ChildStatus& process : state.processes) EXPECT_FALSE(Alive(process.pid));
}

TEST_F(UpTest, AHostThatOthersReachIsRefusedBeforeAnythingStarts) {
  const ProgramResult refused = Up({"--host", "0.0.0.0"}).Wait();
  EXPECT_EQ(refused.exit_code, kExitUsage);
  EXPECT_THAT(refused.err, HasSubstr("0.0.0.0"));
  EXPECT_THAT(refused.err, HasSubstr("--insecure-listen"));
  EXPECT_FALSE(std::filesystem::exists(dir_ / "calls"));
  RunningProgram up = Up({"--host", "0.0.0.0", "--insecure-listen"});
  EXPECT_TRUE(up.ReadUntil(Ready));
  EXPECT_THAT(Text(dir_ / "calls"), HasSubstr("--insecure-listen"));
}

TEST_F(UpTest, ASecondUpInTheSameDirectoryIsRefused) {
  RunningProgram first = Up();
  ASSERT_TRUE(first.ReadUntil(Ready));
  const ProgramResult second = Up().Wait();
  EXPECT_EQ(second.exit_code, kExitRuntime);
  EXPECT_THAT(second.err, HasSubstr("already running"));
  EXPECT_THAT(second.err, HasSubstr(std::to_string(first.pid())));
}

TEST_F(UpTest, DownStopsIt) {
  RunningProgram up = Up();
  ASSERT_TRUE(up.ReadUntil(Ready));
  const ProgramResult down = Command({"down"}).Wait();
  EXPECT_EQ(down.exit_code, kExitOk) << down.err;
  EXPECT_EQ(up.Wait().exit_code, kExitOk);
  EXPECT_THAT(Command({"down"}).Wait().out, HasSubstr("nothing is running"));
}

TEST_F(UpTest, DetachReturnsWhenReadyAndLeavesItRunning) {
  const ProgramResult started = Up({"--detach"}).Wait();
  EXPECT_EQ(started.exit_code, kExitOk) << started.err;
  EXPECT_THAT(started.out, HasSubstr("tailor down"));
  const RunState state = State();
  EXPECT_TRUE(Alive(state.processes.at(1).pid));
  EXPECT_EQ(Command({"down"}).Wait().exit_code, kExitOk);
  EXPECT_FALSE(Alive(state.processes.at(1).pid));
}

TEST_F(UpTest, ADetachedStartThatFailsKeepsItsExitCode) {
  Program("worker", "exit 3");
  EXPECT_EQ(Up({"--detach"}).Wait().exit_code, kExitBadModel);
}

TEST_F(UpTest, AWorkerThatDiesIsStartedAgainAndReported) {
  RunningProgram up = Up();
  ASSERT_TRUE(up.ReadUntil(Ready));
  kill(State().processes.at(1).pid, SIGKILL);
  EXPECT_TRUE(up.ReadUntil(
      [](const ProgramResult& r) { return r.err.find("worker is ready") != std::string::npos; }));
  up.Signal(SIGTERM);
  EXPECT_THAT(up.Wait().err, HasSubstr("worker ended (signal 9 (Killed)); starting it again"));
}

TEST_F(UpTest, ABadModelEndsTheStartWithItsLogAndCode) {
  Program("worker", "echo 'tensor blk.0 has 7 rows, limit 3' >&2; exit 3");
  const ProgramResult result = Up().Wait();
  EXPECT_EQ(result.exit_code, kExitBadModel);
  EXPECT_THAT(result.err, HasSubstr("tensor blk.0 has 7 rows, limit 3"));
  EXPECT_THAT(result.err, HasSubstr("worker.log"));
}

TEST_F(UpTest, FlagsReachTheProcesses) {
  RunningProgram up =
      Up({"--threads", "2", "--attention", "full", "--selector", "store", "--query", "predicted"});
  ASSERT_TRUE(up.ReadUntil(Ready));
  const std::string calls = Text(dir_ / "calls");
  EXPECT_THAT(calls, HasSubstr("--arena-bytes 1048576"));
  EXPECT_THAT(calls, HasSubstr("--attention-default full --selector store --query predicted"));
  EXPECT_THAT(calls, HasSubstr("--threads 2"));
}

TEST_F(UpTest, WhatCanBeCheckedBeforeStartingIsChecked) {
  const ProgramResult no_model =
      Command({"up", "--model", "/no/model", "--port", std::to_string(port_)}).Wait();
  EXPECT_EQ(no_model.exit_code, kExitBadModel);
  EXPECT_THAT(no_model.err, HasSubstr("there is no model at /no/model"));
  const ProgramResult no_memory = Up({"--arena-bytes", "900TiB"}).Wait();
  EXPECT_EQ(no_memory.exit_code, kExitUsage) << "given twice";
  int busy = -1;
  port_ = FreePort(&busy);
  const ProgramResult busy_port = Up().Wait();
  close(busy);
  EXPECT_EQ(busy_port.exit_code, kExitPortBusy);
  EXPECT_THAT(busy_port.err, HasSubstr("is in use"));
  std::filesystem::remove(dir_ / "tailor-gateway");
  const ProgramResult no_program = Up().Wait();
  EXPECT_EQ(no_program.exit_code, kExitRuntime);
  EXPECT_THAT(no_program.err, HasSubstr("tailor-gateway"));
}

TEST_F(UpTest, AnArenaLargerThanMemoryIsRefusedWithTheShortfall) {
  const ProgramResult result = Command({"up", "--model", (dir_ / "model.gguf").string(), "--port",
                                        std::to_string(port_), "--arena-bytes", "900TB"})
                                   .Wait();
  EXPECT_EQ(result.exit_code, kExitNoMemory);
  EXPECT_THAT(result.err, HasSubstr("bytes short"));
}

TEST_F(UpTest, AStubbornChildIsKilledAfterTheStopTimeout) {
  Program("kvstore", "trap '' TERM; echo ready >&3; while :; do sleep 1; done");
  RunningProgram up =
      Command({"up", "--model", (dir_ / "model.gguf").string(), "--port", std::to_string(port_),
               "--arena-bytes", "1MiB", "--stop-timeout", "0.3"});
  ASSERT_TRUE(up.ReadUntil(Ready));
  const pid_t stubborn = State().processes.at(0).pid;
  up.Signal(SIGTERM);
  EXPECT_THAT(up.Wait().err, HasSubstr("kvstore did not stop in time and was killed"));
  EXPECT_FALSE(Alive(stubborn));
}

}  // namespace
}  // namespace tailor
