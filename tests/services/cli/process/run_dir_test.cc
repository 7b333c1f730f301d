#include "services/cli/process/run_dir.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <fstream>

namespace tailor {
namespace {

using ::testing::HasSubstr;

class RunDirTest : public ::testing::Test {
 protected:
  RunDirTest() {
    std::string pattern = ::testing::TempDir() + "run_dir_XXXXXX";
    dir_ = mkdtemp(pattern.data());
  }
  ~RunDirTest() override { std::filesystem::remove_all(dir_); }
  RunDir OpenRun() {
    absl::StatusOr<RunDir> run = RunDir::Open(dir_ / "a" / "run");
    EXPECT_TRUE(run.ok()) << run.status();
    return *std::move(run);
  }
  std::filesystem::path dir_;
};

RunState SomeState() {
  RunState state;
  state.supervisor_pid = 77;
  state.started_unix_ms = 1700000000123;
  state.model = "/models/\"odd\" name.gguf";
  state.gateway_address = "127.0.0.1:8001";
  state.processes.push_back({"worker", ChildState::kReady, 78, 2, 1700000000456, "/l/worker.log"});
  return state;
}

TEST_F(RunDirTest, TheDirectoryIsForItsOwnerAlone) {
  const RunDir run = OpenRun();
  struct stat info {};
  ASSERT_EQ(stat(run.path().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
}

TEST_F(RunDirTest, StateSurvivesTheRoundTrip) {
  const RunDir run = OpenRun();
  ASSERT_TRUE(run.WriteState(SomeState()).ok());
  const absl::StatusOr<RunState> read = run.ReadState();
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->supervisor_pid, 77);
  EXPECT_EQ(read->model, SomeState().model);
  ASSERT_EQ(read->processes.size(), 1u);
  EXPECT_EQ(read->processes[0].state, ChildState::kReady);
  EXPECT_EQ(read->ToJson(), SomeState().ToJson());
}

TEST_F(RunDirTest, AMissingStateIsNotFound) {
  EXPECT_EQ(OpenRun().ReadState().status().code(), absl::StatusCode::kNotFound);
}

TEST_F(RunDirTest, ADamagedStateIsRefusedWithItsPath) {
  const RunDir run = OpenRun();
  for (const std::string text : {"", "{", "[]", "{\"version\": 1}", "{\"version\": 99}"}) {
    std::ofstream(run.path() / "run.json") << text;
    const absl::Status status = run.ReadState().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr("run.json")) << text;
  }
}

TEST_F(RunDirTest, ASecondLockIsRefusedAndNamesTheHolder) {
  RunDir first = OpenRun();
  ASSERT_TRUE(first.Lock().ok());
  ASSERT_TRUE(first.WriteState(SomeState()).ok());
  const absl::Status second = OpenRun().Lock();
  EXPECT_EQ(second.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(second.message()), HasSubstr("pid 77"));
}

// `tailor down` would signal whatever has the dead supervisor's pid by now.
TEST_F(RunDirTest, ANewHolderDoesNotInheritTheStateOfADeadOne) {
  RunDir run = OpenRun();
  ASSERT_TRUE(run.WriteState(SomeState()).ok());
  ASSERT_TRUE(run.Lock().ok());
  EXPECT_EQ(run.ReadState().status().code(), absl::StatusCode::kNotFound);
}

TEST_F(RunDirTest, TheLockEndsWithItsHolder) {
  const RunDir watcher = OpenRun();
  EXPECT_FALSE(watcher.IsLocked());
  {
    RunDir holder = OpenRun();
    ASSERT_TRUE(holder.Lock().ok());
    EXPECT_TRUE(watcher.IsLocked());
  }
  EXPECT_FALSE(watcher.IsLocked());
}

TEST_F(RunDirTest, APathTooLongForASocketIsRefusedWithTheLimit) {
  const absl::Status status = RunDir::Open(dir_ / std::string(120, 'x')).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("unix sockets allow"));
}

TEST_F(RunDirTest, TheDefaultFollowsXdgRuntimeDir) {
  setenv("XDG_RUNTIME_DIR", "/run/user/5", 1);
  EXPECT_EQ(RunDir::DefaultPath(), "/run/user/5/tailor");
  unsetenv("XDG_RUNTIME_DIR");
  setenv("HOME", "/home/u", 1);
  EXPECT_EQ(RunDir::DefaultPath(), "/home/u/.tailor/run");
}

}  // namespace
}  // namespace tailor
