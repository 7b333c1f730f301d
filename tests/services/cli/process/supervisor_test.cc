// Children are shell scripts: well-behaved, crashing, stubborn, noisy.
#include "services/cli/process/supervisor.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <sstream>

namespace tailor {
namespace {

using ::testing::HasSubstr;

class SupervisorTest : public ::testing::Test {
 protected:
  SupervisorTest() {
    std::string pattern = ::testing::TempDir() + "supervisor_XXXXXX";
    dir_ = mkdtemp(pattern.data());
    options_.restart.first_backoff_ms = 20;
    options_.restart.longest_backoff_ms = 40;
    options_.stop_timeout_ms = 5000;
  }
  ~SupervisorTest() override { std::filesystem::remove_all(dir_); }

  ChildSpec Script(const std::string& name, const std::string& script,
                   std::vector<std::string> after = {}) {
    return {name, {"/bin/sh", "-c", script}, dir_ / (name + ".log"), std::move(after)};
  }

  void Make(std::vector<ChildSpec> children) {
    supervisor_.emplace(options_, std::move(children),
                        [this](const ChildEvent& event) { events_.push_back(event.text); });
  }

  // Steps until `done` or an error; fails the test after ten seconds.
  absl::Status StepUntil(const std::function<bool()>& done) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (!done()) {
      if (std::chrono::steady_clock::now() > end) {
        ADD_FAILURE() << "nothing happened in ten seconds";
        return absl::DeadlineExceededError("test");
      }
      if (absl::Status status = supervisor_->Step(100, -1); !status.ok()) return status;
    }
    return absl::OkStatus();
  }
  absl::Status StepUntilReady() {
    return StepUntil([this] { return supervisor_->AllReady(); });
  }

  std::string FileText(const std::string& name) const {
    std::ifstream file(dir_ / name);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }

  std::filesystem::path dir_;
  SupervisorOptions options_;
  std::vector<std::string> events_;
  std::optional<Supervisor> supervisor_;
};

constexpr char kServes[] = "echo ready >&3; exec sleep 60";

TEST_F(SupervisorTest, AChildIsReadyOnceItSaysSo) {
  Make({Script("store", "sleep 0.1; echo ready >&3; exec sleep 60")});
  ASSERT_TRUE(supervisor_->Step(0, -1).ok());
  EXPECT_FALSE(supervisor_->AllReady());
  ASSERT_TRUE(StepUntilReady().ok());
  EXPECT_EQ(supervisor_->Status()[0].state, ChildState::kReady);
}

TEST_F(SupervisorTest, DependantsStartOnlyAfterWhatTheyNeedIsReady) {
  const std::string mark = (dir_ / "order").string();
  Make({Script("a", "sleep 0.1; echo a-ready >>" + mark + "; " + kServes),
        Script("b", "echo b-started >>" + mark + "; " + kServes, {"a"})});
  ASSERT_TRUE(StepUntilReady().ok());
  EXPECT_EQ(FileText("order"), "a-ready\nb-started\n");
}

TEST_F(SupervisorTest, OutputGoesToTheLogFile) {
  Make({Script("store", std::string("echo to-stdout; echo to-stderr >&2; ") + kServes)});
  ASSERT_TRUE(StepUntilReady().ok());
  EXPECT_EQ(FileText("store.log"), "to-stdout\nto-stderr\n");
}

TEST_F(SupervisorTest, AChildHasNoDescriptorsButItsOwn) {
  const int leaked = open("/dev/null", O_RDONLY);  // without O_CLOEXEC, as a careless library would
  // No pipe: the shell may hold an end of it while ls looks.
  Make({Script("store", std::string("ls /proc/$$/fd; ") + kServes)});
  ASSERT_TRUE(StepUntilReady().ok());
  close(leaked);
  // 10 or more is the shell's own.
  EXPECT_THAT(FileText("store.log"), ::testing::MatchesRegex("0\n1\n2\n3\n(1[0-9]\n)*"));
}

TEST_F(SupervisorTest, ACrashedChildIsStartedAgain) {
  Make({Script("worker", kServes)});
  ASSERT_TRUE(StepUntilReady().ok());
  const pid_t first = supervisor_->Status()[0].pid;
  kill(first, SIGKILL);
  ASSERT_TRUE(StepUntil([&] {
                const ChildStatus status = supervisor_->Status()[0];
                return status.state == ChildState::kReady && status.pid != first;
              }).ok());
  EXPECT_EQ(supervisor_->Status()[0].starts, 2);
  EXPECT_THAT(events_, ::testing::Contains(HasSubstr("worker ended (signal 9 (Killed))")));
}

TEST_F(SupervisorTest, AChildThatKeepsCrashingIsGivenUp) {
  options_.restart.failures_in_a_row = 2;
  Make({Script("worker", "exit 1")});
  const absl::Status status = StepUntil([] { return false; });
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("worker ended (exit code 1) after 3 start(s)"));
  EXPECT_EQ(supervisor_->exit_code(), kExitRuntime);
}

TEST_F(SupervisorTest, ABadModelIsNotTriedAgainAndKeepsItsExitCode) {
  Make({Script("worker", "exit 3")});
  EXPECT_FALSE(StepUntil([] { return false; }).ok());
  EXPECT_EQ(supervisor_->Status()[0].starts, 1);
  EXPECT_EQ(supervisor_->exit_code(), kExitBadModel);
}

TEST_F(SupervisorTest, AMissingProgramIsNamed) {
  ChildSpec spec = Script("worker", "");
  spec.argv = {"/no/such/tailor-worker"};
  Make({spec});
  const absl::Status status = StepUntil([] { return false; });
  EXPECT_THAT(std::string(status.message()), HasSubstr("cannot start /no/such/tailor-worker"));
}

TEST_F(SupervisorTest, GarbageOnTheReadinessPipeIsNotReadiness) {
  options_.restart.start_timeout_ms = 400;
  options_.restart.failures_in_a_row = 0;
  Make({Script("worker", "head -c 20000 /dev/urandom >&3; echo already >&3; exec sleep 60")});
  EXPECT_FALSE(StepUntilReady().ok());
  EXPECT_FALSE(supervisor_->AllReady());
}

TEST_F(SupervisorTest, ReadinessAfterGarbageStillCounts) {
  Make({Script("worker",
               "head -c 20000 /dev/zero >&3; echo >&3; printf rea >&3; sleep 0.1; echo dy >&3; "
               "exec sleep 60")});
  EXPECT_TRUE(StepUntilReady().ok());
}

TEST_F(SupervisorTest, AChildThatNeverGetsReadyIsKilledAndTriedAgain) {
  options_.restart.start_timeout_ms = 100;
  const std::string mark = (dir_ / "second").string();
  Make({Script("worker", "if [ -e " + mark + " ]; then " + kServes + "; fi; touch " + mark +
                             "; exec sleep 60")});
  ASSERT_TRUE(StepUntilReady().ok());
  EXPECT_THAT(events_, ::testing::Contains(HasSubstr("worker was not ready after 0.1 s")));
}

TEST_F(SupervisorTest, ADependantWaitsForARestartedChild) {
  Make({Script("store", std::string("sleep 0.1; ") + kServes),
        Script("worker", kServes, {"store"})});
  ASSERT_TRUE(StepUntilReady().ok());
  const pid_t store = supervisor_->Status()[0].pid;
  kill(supervisor_->Status()[1].pid, SIGKILL);
  kill(store, SIGKILL);
  ASSERT_TRUE(StepUntil([&] { return supervisor_->Status()[0].starts == 2; }).ok());
  EXPECT_NE(supervisor_->Status()[1].state, ChildState::kReady);
  ASSERT_TRUE(StepUntilReady().ok());
}

TEST_F(SupervisorTest, ChildrenStopInReverseOrder) {
  const std::string mark = (dir_ / "order").string();
  const auto stops = [&](const std::string& name) {
    return "trap 'echo " + name + " >>" + mark +
           "; exit 0' TERM; echo ready >&3; while :; do sleep 0.02; done";
  };
  Make({Script("a", stops("a")), Script("b", stops("b"), {"a"}), Script("c", stops("c"), {"b"})});
  ASSERT_TRUE(StepUntilReady().ok());
  supervisor_->StopAll(-1);
  EXPECT_EQ(FileText("order"), "c\nb\na\n");
  EXPECT_EQ(events_.back(), "a stopped, exit code 0");
}

TEST_F(SupervisorTest, AChildThatIgnoresSigtermIsKilled) {
  options_.stop_timeout_ms = 200;
  Make({Script("worker", "trap '' TERM; echo ready >&3; while :; do sleep 1; done")});
  ASSERT_TRUE(StepUntilReady().ok());
  const pid_t pid = supervisor_->Status()[0].pid;
  supervisor_->StopAll(-1);
  EXPECT_EQ(kill(pid, 0), -1) << "still there";
  EXPECT_THAT(events_.back(), HasSubstr("did not stop in time and was killed"));
}

TEST_F(SupervisorTest, AStoppedProcessStillEndsCleanly) {
  Make({Script("worker", kServes)});
  ASSERT_TRUE(StepUntilReady().ok());
  kill(supervisor_->Status()[0].pid, SIGSTOP);
  supervisor_->StopAll(-1);
  EXPECT_THAT(events_.back(), HasSubstr("worker stopped, signal 15"));
}

TEST_F(SupervisorTest, ASecondSignalHurriesTheStop) {
  options_.stop_timeout_ms = 60000;
  Make({Script("worker", "trap '' TERM; echo ready >&3; while :; do sleep 1; done")});
  ASSERT_TRUE(StepUntilReady().ok());
  const int hurry = eventfd(1, EFD_CLOEXEC);
  const auto start = std::chrono::steady_clock::now();
  supervisor_->StopAll(hurry);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
  close(hurry);
}

TEST_F(SupervisorTest, NoChildOutlivesTheSupervisor) {
  Make({Script("worker", kServes)});
  ASSERT_TRUE(StepUntilReady().ok());
  const pid_t pid = supervisor_->Status()[0].pid;
  supervisor_.reset();
  EXPECT_EQ(kill(pid, 0), -1);
}

TEST_F(SupervisorTest, StepReturnsWhenTheWakeDescriptorIsReadable) {
  Make({Script("worker", kServes)});
  ASSERT_TRUE(StepUntilReady().ok());
  const int wake = eventfd(1, EFD_CLOEXEC);
  const auto start = std::chrono::steady_clock::now();
  ASSERT_TRUE(supervisor_->Step(60000, wake).ok());
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
  close(wake);
}

}  // namespace
}  // namespace tailor
