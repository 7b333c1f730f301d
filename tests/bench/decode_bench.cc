// Decode speed on a real model, JSON to stdout. Hybrid against full attention: the two alternate in
// one process on the same prefilled rows; medians of the rounds. Beside them a nearly empty
// context, whose step is weights only. With --sessions N instead: N sequences in one step against
// the same sequences in N steps, which alternate too.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <random>

#include "common/cpu/simd_level.h"
#include "worker/quality/measured_model.h"

namespace tailor {
namespace {

struct Options {
  std::string model_path, policy_path;
  MeasuredModelOptions model;
  int context_tokens = 7000, round_tokens = 16, rounds = 7, sessions = 0;
};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

double MillisSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

struct Contestant {
  std::unique_ptr<SequenceCache> cache;
  std::vector<double> ms_per_token;

  absl::Status Round(MeasuredModel& bench, int tokens) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < tokens; ++i) TS_RETURN_IF_ERROR(bench.Step(100 + i, bench.policy, *cache));
    ms_per_token.push_back(MillisSince(start) / tokens);
    return absl::OkStatus();
  }
};

nlohmann::json Describe(const Contestant& c) {
  const double ms = Median(c.ms_per_token);
  const CacheTotals totals = c.cache->totals();
  return {{"ms_per_token", ms},
          {"tokens_per_second", 1000 / ms},
          {"best_ms", *std::min_element(c.ms_per_token.begin(), c.ms_per_token.end())},
          {"worker_codes_bytes", totals.worker.codes},
          {"worker_resident_bytes", totals.worker.resident}};
}

std::vector<TokenId> RandomIds(const MeasuredModel& bench, int tokens, uint32_t seed) {
  std::vector<TokenId> ids(tokens);
  std::mt19937 random(seed);
  for (TokenId& id : ids) id = static_cast<TokenId>(random() % bench.model.shape.vocab);
  return ids;
}

// Sequences of one mode, each with a text of its own: forks would share pages, and so the CPU's
// caches.
struct Sessions {
  std::vector<std::unique_ptr<SequenceCache>> caches;
  std::vector<double> apart_ms, together_ms;  // of a token of every sequence

  absl::Status Round(MeasuredModel& bench, int tokens) {
    auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < tokens; ++i) {
      for (auto& cache : caches) TS_RETURN_IF_ERROR(bench.Step(100 + i, bench.policy, *cache));
    }
    apart_ms.push_back(MillisSince(start) / tokens);
    start = std::chrono::steady_clock::now();
    std::vector<DecodeRow> rows(caches.size());
    for (int i = 0; i < tokens; ++i) {
      for (size_t r = 0; r < rows.size(); ++r) rows[r] = {100 + i, caches[r].get(), {}};
      bench.StepAll(bench.policy, rows);
      for (const DecodeRow& row : rows) TS_RETURN_IF_ERROR(row.status);
    }
    together_ms.push_back(MillisSince(start) / tokens);
    return absl::OkStatus();
  }
  nlohmann::json Describe() const {
    const double together = Median(together_ms), apart = Median(apart_ms);
    const auto count = static_cast<double>(caches.size());
    return {{"together_tokens_per_second", 1000 * count / together},
            {"apart_tokens_per_second", 1000 * count / apart},
            {"together_over_apart", apart / together},
            {"together_step_ms", together},
            {"best_together_step_ms", *std::min_element(together_ms.begin(), together_ms.end())}};
  }
};

absl::Status RunSessions(const Options& options, MeasuredModel& bench) {
  const int64_t total = options.context_tokens + 2 * options.rounds * options.round_tokens;
  Sessions hybrid, full;
  for (int i = 0; i < options.sessions; ++i) {
    const std::string name = std::to_string(i);
    TS_ASSIGN_OR_RETURN(auto prompt, bench.Open("hybrid" + name, CacheMode::kHybrid, total));
    TS_RETURN_IF_ERROR(bench.RunPrefill(RandomIds(bench, options.context_tokens, i), *prompt));
    TS_ASSIGN_OR_RETURN(auto twin,
                        bench.Fork(*prompt, "full" + name, CacheMode::kFull, bench.policy, total));
    hybrid.caches.push_back(std::move(prompt));
    full.caches.push_back(std::move(twin));
  }
  for (int round = 0; round < options.rounds; ++round) {
    TS_RETURN_IF_ERROR(hybrid.Round(bench, options.round_tokens));
    TS_RETURN_IF_ERROR(full.Round(bench, options.round_tokens));
  }
  const nlohmann::json out = {{"simd", std::string(ToString(DetectSimdLevel()))},
                              {"policy", bench.policy.Summary()},
                              {"threads", bench.backend->host_threads()},
                              {"weight_bytes", bench.model.weights.bytes},
                              {"context_tokens", options.context_tokens},
                              {"sessions", options.sessions},
                              {"hybrid", hybrid.Describe()},
                              {"full", full.Describe()}};
  std::printf("%s\n", out.dump(2).c_str());
  return absl::OkStatus();
}

absl::Status Run(const Options& options) {
  MeasuredModelOptions model_options = options.model;
  model_options.context_tokens = options.context_tokens + 1024;
  model_options.decode_rows = std::max(1, options.sessions);
  TS_ASSIGN_OR_RETURN(auto bench,
                      MeasuredModel::Load(options.model_path, options.policy_path, model_options));
  if (options.sessions > 0) return RunSessions(options, *bench);
  const std::vector<TokenId> ids = RandomIds(*bench, options.context_tokens, 1);
  const int64_t total = options.context_tokens + options.rounds * options.round_tokens;

  TS_ASSIGN_OR_RETURN(auto prompt, bench->Open("prompt", CacheMode::kHybrid, total));
  const auto start = std::chrono::steady_clock::now();
  TS_RETURN_IF_ERROR(bench->RunPrefill(ids, *prompt));
  const double prefill_ms = MillisSince(start);
  Contestant hybrid, full, empty;
  TS_ASSIGN_OR_RETURN(hybrid.cache,
                      bench->Fork(*prompt, "hybrid", CacheMode::kHybrid, bench->policy, total));
  TS_ASSIGN_OR_RETURN(full.cache,
                      bench->Fork(*prompt, "full", CacheMode::kFull, bench->policy, total));
  for (int round = 0; round < options.rounds; ++round) {
    TS_RETURN_IF_ERROR(hybrid.Round(*bench, options.round_tokens));
    TS_RETURN_IF_ERROR(full.Round(*bench, options.round_tokens));
    TS_ASSIGN_OR_RETURN(empty.cache, bench->Open("empty" + std::to_string(round), CacheMode::kFull,
                                                 options.round_tokens));
    TS_RETURN_IF_ERROR(empty.Round(*bench, options.round_tokens));
  }
  nlohmann::json out = {{"simd", std::string(ToString(DetectSimdLevel()))},
                        {"policy", bench->policy.Summary()},
                        {"weight_bytes", bench->model.weights.bytes},
                        {"context_tokens", options.context_tokens},
                        {"prefill_ms", prefill_ms},
                        {"prefill_tokens_per_second", 1000 * options.context_tokens / prefill_ms},
                        {"hybrid", Describe(hybrid)},
                        {"full", Describe(full)},
                        {"empty_context", Describe(empty)}};
  out["full_over_hybrid"] = Median(full.ms_per_token) / Median(hybrid.ms_per_token);
  out["resident_share"] =
      static_cast<double>(out["hybrid"]["worker_codes_bytes"].get<int64_t>() +
                          out["hybrid"]["worker_resident_bytes"].get<int64_t>()) /
      out["full"]["worker_resident_bytes"].get<double>();
  std::printf("%s\n", out.dump(2).c_str());
  return absl::OkStatus();
}

}  // namespace
}  // namespace tailor

int main(int argc, char** argv) {
  tailor::Options options;
  CLI::App app("Decode speed: hybrid against full attention");
  app.add_option("--model", options.model_path)->required();
  app.add_option("--policy", options.policy_path);
  app.add_option("--threads", options.model.threads);
  app.add_option("--context", options.context_tokens);
  app.add_option("--round-tokens", options.round_tokens);
  app.add_option("--rounds", options.rounds);
  app.add_option("--arena", options.model.arena_bytes)->transform(CLI::AsSizeValue(false));
  app.add_option("--sessions", options.sessions)->check(CLI::Range(1, tailor::kMaxDecodeRows));
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = tailor::Run(options);
  if (!status.ok())
    std::fprintf(stderr, "decode_bench: %s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}
