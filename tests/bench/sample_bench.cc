// What sampling a token costs a CPU worker's host: a row of logits reduced by the backend and drawn
// from, against the sampler that looked at all logits (tests/worker/host_sampler.h), in the same
// run. Logits are Zipf's: the r-th best token has probability r^-1.6, so that about 3 of a hundred
// draws at temperature 1 lie beyond the 256 best. JSON to stdout.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>

#include "tests/worker/host_sampler.h"
#include "worker/ops/backend.h"

namespace tailor {
namespace {

struct Options {
  int threads = 0, tokens = 200;
};

struct Case {
  const char* name;
  SamplingParams params;
};

constexpr Case kCases[] = {
    {"greedy", {}},
    {"temperature 0.8, top_p 0.95", {.temperature = 0.8f, .top_p = 0.95f}},
    {"temperature 1", {.temperature = 1}},
    {"temperature 0.8, top_k 40", {.temperature = 0.8f, .top_k = 40}},
    {"temperature 0.8, top_p 0.95, repetition 1.1",
     {.temperature = 0.8f, .top_p = 0.95f, .repetition_penalty = 1.1f}},
};

std::vector<float> ZipfLogits(int32_t vocab, uint64_t seed) {
  std::vector<float> logits(vocab);
  for (int32_t r = 0; r < vocab; ++r) logits[r] = -1.6f * std::log(static_cast<float>(r + 1));
  std::mt19937_64 random(seed);
  std::shuffle(logits.begin(), logits.end(), random);
  return logits;
}

// Microseconds of fn(position): the median, and the mean, which has the draws from all logits in
// it.
struct Time {
  double median_us = 0, mean_us = 0;
};
template <typename F>
Time Measured(int tokens, F fn) {
  std::vector<double> us;
  for (int position = 0; position < tokens; ++position) {
    const auto start = std::chrono::steady_clock::now();
    fn(position);
    us.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start)
                     .count());
  }
  std::nth_element(us.begin(), us.begin() + tokens / 2, us.end());
  return {us[tokens / 2], std::accumulate(us.begin(), us.end(), 0.0) / tokens};
}

nlohmann::json Measure(const Case& c, int32_t vocab, Backend& ops, int tokens) {
  const std::vector<float> logits = ZipfLogits(vocab, 1);
  std::vector<TokenId> context(3000);  // of which about 3,000 are distinct
  std::mt19937_64 random(2);
  for (TokenId& token : context) token = static_cast<TokenId>(random() % vocab);
  HostSampler before(c.params, context);
  Sampler after(c.params, context);
  std::vector<TokenId> drawn_before(tokens), drawn_after(tokens);
  const Time before_time = Measured(
      tokens, [&](int position) { drawn_before[position] = before.Next(logits, position).token; });
  int needed_logits = 0;
  LogitReduction reduced;
  const Time after_time = Measured(tokens, [&](int position) {
    const LogitQuery query = after.query();
    ops.ReduceLogits({logits.data(), 1, vocab}, {&query, 1}, {&reduced, 1});
    auto drawn = after.Next(reduced, position);
    if (!drawn.has_value()) {
      ++needed_logits;
      drawn = after.Next(reduced, logits, position);
    }
    drawn_after[position] = drawn->token;
  });
  return {{"case", c.name},
          {"vocab", vocab},
          {"before_us", before_time.median_us},
          {"before_mean_us", before_time.mean_us},
          {"after_us", after_time.median_us},
          {"after_mean_us", after_time.mean_us},
          {"ratio", before_time.median_us / after_time.median_us},
          {"needed_logits", static_cast<double>(needed_logits) / tokens},
          {"same_tokens", drawn_before == drawn_after}};
}

int Run(const Options& options) {
  const auto ops = MakeCpuBackend({.threads = options.threads});
  if (!ops.ok()) {
    std::fprintf(stderr, "sample_bench: %s\n", std::string(ops.status().message()).c_str());
    return 1;
  }
  nlohmann::json out = {{"simd", std::string(ToString(DetectSimdLevel()))},
                        {"threads", (*ops)->host_threads()},
                        {"tokens", options.tokens},
                        {"cases", nlohmann::json::array()}};
  for (const int32_t vocab : {49152, 128256}) {
    for (const Case& c : kCases) out["cases"].push_back(Measure(c, vocab, **ops, options.tokens));
  }
  std::printf("%s\n", out.dump(2).c_str());
  return 0;
}

}  // namespace
}  // namespace tailor

int main(int argc, char** argv) {
  tailor::Options options;
  CLI::App app("Host time of sampling a token: reduced logits against all of them");
  app.add_option("--threads", options.threads);
  app.add_option("--tokens", options.tokens)->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  return tailor::Run(options);
}
