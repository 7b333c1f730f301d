#include "services/gateway/gateway_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <vector>

#include "services/exit_code.h"

namespace tailor {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class GatewayOptionsTest : public ::testing::Test {
 protected:
  ParsedGatewayCommandLine Parse(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "tailor-gateway");
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    ::testing::internal::CaptureStderr();
    ::testing::internal::CaptureStdout();
    const auto parsed = ParseGatewayCommandLine(static_cast<int>(argv.size()), argv.data());
    out_ = ::testing::internal::GetCapturedStdout();
    err_ = ::testing::internal::GetCapturedStderr();
    return parsed;
  }
  // With what is required.
  ParsedGatewayCommandLine ParseMore(std::vector<std::string> arguments) {
    for (const char* needed : {"unix:w.sock", "--worker", "m.gguf", "--model"}) {
      arguments.insert(arguments.begin(), needed);
    }
    return Parse(std::move(arguments));
  }

  std::string out_, err_;
};

TEST_F(GatewayOptionsTest, DefaultsListenOnLoopback) {
  const auto parsed = ParseMore({});
  ASSERT_TRUE(parsed.options.has_value()) << err_;
  EXPECT_EQ(parsed.options->model, "m.gguf");
  EXPECT_EQ(parsed.options->worker, "unix:w.sock");
  EXPECT_EQ(parsed.options->listen, "127.0.0.1:8001");
  EXPECT_EQ(parsed.options->context_tokens, 0);
  EXPECT_FALSE(parsed.options->durable_power);
}

TEST_F(GatewayOptionsTest, AnAddressOthersReachNeedsTheFlagThatSaysSo) {
  for (const char* listen : {"0.0.0.0:80", "[::]:80", "192.168.0.1:80", "127.evil.example:80"}) {
    const auto refused = ParseMore({"--listen", listen});
    EXPECT_FALSE(refused.options.has_value());
    EXPECT_EQ(refused.exit_code, kExitUsage);
    EXPECT_THAT(err_, AllOf(HasSubstr(listen), HasSubstr("--insecure-listen")));
    EXPECT_TRUE(ParseMore({"--listen", listen, "--insecure-listen"}).options.has_value());
  }
  EXPECT_TRUE(ParseMore({"--listen", "unix:/run/g.sock"}).options.has_value());
}

TEST_F(GatewayOptionsTest, BadValuesAreUsageErrorsThatNameTheFlag) {
  const std::vector<std::pair<std::string, std::string>> bad = {
      {"--default-max-tokens", "0"},      {"--default-max-tokens", "1048577"},
      {"--default-max-tokens", "many"},   {"--resume-timeout-ms", "-1"},
      {"--resume-timeout-ms", "3600001"}, {"--context-tokens", "0"},
      {"--context-tokens", "1e3"},        {"--log-level", "loud"}};
  for (const auto& [flag, value] : bad) {
    const auto refused = ParseMore({flag, value});
    EXPECT_FALSE(refused.options.has_value()) << flag << " " << value;
    EXPECT_EQ(refused.exit_code, kExitUsage);
    EXPECT_THAT(err_, HasSubstr(flag));
  }
  EXPECT_EQ(ParseMore({"--no-such-flag"}).exit_code, kExitUsage);
}

TEST_F(GatewayOptionsTest, ModelAndWorkerAreRequired) {
  EXPECT_EQ(Parse({"--model", "m"}).exit_code, kExitUsage);
  EXPECT_THAT(err_, HasSubstr("--worker"));
  EXPECT_EQ(Parse({"--worker", "w"}).exit_code, kExitUsage);
  EXPECT_THAT(err_, HasSubstr("--model"));
}

TEST_F(GatewayOptionsTest, TheEnvironmentFillsInAndFlagsWin) {
  setenv("TAILOR_GATEWAY_DATABASE", "from-env.db", 1);
  EXPECT_EQ(ParseMore({}).options->database, "from-env.db");
  EXPECT_EQ(ParseMore({"--database", "flag.db"}).options->database, "flag.db");
  unsetenv("TAILOR_GATEWAY_DATABASE");
}

TEST_F(GatewayOptionsTest, HelpAndVersionSucceed) {
  const auto help = Parse({"--help"});
  EXPECT_FALSE(help.options.has_value());
  EXPECT_EQ(help.exit_code, kExitOk);
  EXPECT_THAT(out_, AllOf(HasSubstr("Example:"), HasSubstr("Exit codes:"), HasSubstr("--listen")));
  EXPECT_EQ(Parse({"--version"}).exit_code, kExitOk);
}

}  // namespace
}  // namespace tailor
