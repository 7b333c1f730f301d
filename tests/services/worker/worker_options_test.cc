#include "services/worker/worker_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <vector>

#include "services/exit_code.h"

namespace tailor {
namespace {

ParsedCommandLine Parse(std::vector<const char*> flags) {
  flags.insert(flags.begin(), "tailor-worker");
  return ParseWorkerCommandLine(static_cast<int>(flags.size()), flags.data());
}

TEST(WorkerOptionsTest, FlagsReachTheOptions) {
  const ParsedCommandLine parsed =
      Parse({"--model", "m.gguf", "--local-store", "2GiB", "--selector", "store", "--query",
             "predicted", "--attention-default", "full", "--threads", "3", "--ready-fd", "3",
             "--die-with-parent", "--context-tokens", "4096", "--backend", "cuda", "--device", "1",
             "--device-memory", "20GiB", "--cuda-module", "/m/other.so", "--max-decode-rows", "4"});
  ASSERT_TRUE(parsed.options.has_value());
  EXPECT_EQ(parsed.options->model, "m.gguf");
  EXPECT_EQ(parsed.options->local_store_bytes, int64_t{2} << 30);
  EXPECT_EQ(parsed.options->selector, Selector::kStore);
  EXPECT_EQ(parsed.options->query, QueryMode::kPredicted);
  EXPECT_EQ(parsed.options->attention_default, AttentionMode::kFull);
  EXPECT_EQ(parsed.options->threads, 3);
  EXPECT_EQ(parsed.options->backend, BackendChoice::kCuda);
  EXPECT_EQ(WorkerOptions{}.backend, BackendChoice::kCpu) << "no GPU has passed tests/gpu yet";
  EXPECT_EQ(parsed.options->device, 1);
  EXPECT_EQ(parsed.options->cuda_module, "/m/other.so");
  EXPECT_EQ(WorkerOptions{}.cuda_module, "") << "the one beside the program";
  EXPECT_EQ(parsed.options->device_memory_bytes, int64_t{20} << 30);
  EXPECT_EQ(parsed.options->ready_fd, 3);
  EXPECT_TRUE(parsed.options->die_with_parent);
  EXPECT_EQ(parsed.options->engine.context_tokens, 4096);
  EXPECT_EQ(parsed.options->engine.max_decode_rows, 4);
}

TEST(WorkerOptionsTest, TheEnvironmentStandsInForFlagsAndFlagsWin) {
  setenv("TAILOR_WORKER_MODEL", "env.gguf", 1);
  setenv("TAILOR_WORKER_THREADS", "5", 1);
  const ParsedCommandLine parsed = Parse({"--local-store", "1GiB", "--threads", "6"});
  unsetenv("TAILOR_WORKER_MODEL");
  unsetenv("TAILOR_WORKER_THREADS");
  ASSERT_TRUE(parsed.options.has_value());
  EXPECT_EQ(parsed.options->model, "env.gguf");
  EXPECT_EQ(parsed.options->threads, 6);
}

TEST(WorkerOptionsTest, UsageErrorsExitWithTwo) {
  const std::vector<std::vector<const char*>> cases = {
      {},
      {"--model", "m"},  // no store
      {"--model", "m", "--local-store", "1GiB", "--kvstore", "unix:/a"},
      {"--model", "m", "--kvstore", "unix:/a"},  // without its data plane
      {"--model", "m", "--local-store", "1GiB", "--threads", "-1"},
      {"--model", "m", "--local-store", "1GiB", "--prefill-chunk-tokens", "0"},
      {"--model", "m", "--local-store", "1GiB", "--max-decode-rows", "17"},
      {"--model", "m", "--local-store", "a lot"},
      {"--model", "m", "--local-store", "1GiB", "--query", "guessed"},
      {"--model", "m", "--local-store", "1GiB", "--backend", "tpu"},
      {"--model", "m", "--local-store", "1GiB", "--device", "-1"},
      {"--no-such-flag"},
  };
  for (const auto& flags : cases) {
    const ParsedCommandLine parsed = Parse(flags);
    EXPECT_FALSE(parsed.options.has_value());
    EXPECT_EQ(parsed.exit_code, kExitUsage) << (flags.empty() ? "no flags" : flags.back());
  }
}

TEST(WorkerOptionsTest, HelpAndVersionExitWithZero) {
  EXPECT_EQ(Parse({"--help"}).exit_code, kExitOk);
  EXPECT_EQ(Parse({"--version"}).exit_code, kExitOk);
}

}  // namespace
}  // namespace tailor
