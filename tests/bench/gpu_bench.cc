// The GPU benchmark: START HERE. Llama-3.1-8B's geometry with random weights on one device, in one
// run: ceilings, kernels, decode, resume, prefill; a table on stderr, JSON on stdout. Every time
// stands beside a floor from ceilings of the same run, every byte beside its formula.
//
// Not in a step here: sampling, and the seal of one page every 128 tokens. Keys are random, so a
// row cache has nothing to find (its hit rates come from real text: tests/bench/row_cache_bench).
#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <thread>

#include "common/cpu/simd_level.h"
#include "common/status.h"
#include "tests/bench/gpu/rig.h"
#include "tests/bench/gpu/targets.h"

namespace tailor::bench {
namespace {

using nlohmann::json;

std::string CpuName() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

json Describe(const Rig& rig) {
  const LlamaHyperparameters& m = rig.shape();
  return {{"program", "gpu_bench"},
          {"revision", rig.options.revision},
          {"build", std::string("gcc ") + __VERSION__},
          {"machine",
           {{"cpu", CpuName()},
            {"threads", std::thread::hardware_concurrency()},
            {"simd", std::string(ToString(DetectSimdLevel()))},
            {"host_bytes_available", AvailableHostBytes()}}},
          {"backend", std::string(rig.model->backend->name())},
          {"doorbell", rig.doorbell != nullptr},
          {"base_tokens", rig.plan.base_tokens},
          {"geometry",
           {{"name", rig.options.geometry},
            {"layers", m.layers},
            {"hidden", m.hidden},
            {"q_heads", m.q_heads},
            {"kv_heads", m.kv_heads},
            {"head_dim", m.head_dim},
            {"ffn_hidden", m.ffn_hidden},
            {"vocab", m.vocab},
            {"weight_bytes", rig.model->model.weights.bytes},
            {"weight_bytes_per_step", rig.weight_bytes_per_step()}}}};
}

// Seconds for one group of contestants, from the floors and what steps took above them so far.
double DecodeEstimate(const Rig& rig, int64_t context, int32_t batch, size_t contestants) {
  if (rig.options.geometry == "tiny") return 0;
  const double steps = 2.0 + rig.options.rounds * rig.options.round_steps;
  const double floor =
      SerialFloor(StepBytesOf(rig.shape(), rig.PolicyOf(rig.plan.ruler, Path::kSketch),
                              Path::kSketch, context, batch, rig.weight_bytes_per_step()),
                  rig.ceilings);
  constexpr double kOverFloor = 4, kPrepareSeconds = 0.2;
  return static_cast<double>(contestants) * (steps * kOverFloor * floor + kPrepareSeconds * batch);
}

absl::Status DecodeGroup(Rig& rig, int64_t context, int32_t batch) {
  const std::vector<DecodeCase> cases = AllDecodeCases(rig.plan);
  const std::string name = absl::StrCat("decode of ", context, " tokens, batch ", batch);
  if (!rig.TimeFor(name, DecodeEstimate(rig, context, batch, cases.size())))
    return absl::OkStatus();
  return MeasureDecode(rig, context, batch, cases);
}

// The most important first: what time does not allow is dropped from the end.
absl::Status MeasureAll(Rig& rig) {
  const std::vector<int64_t>& contexts = rig.plan.contexts;
  TS_RETURN_IF_ERROR(MeasureCeilings(rig));
  AddMemoryQuotes(rig);
  TS_RETURN_IF_ERROR(DecodeGroup(rig, rig.plan.base_tokens, 1));
  TS_RETURN_IF_ERROR(DecodeGroup(rig, contexts.front(), 1));
  TS_RETURN_IF_ERROR(DecodeGroup(rig, rig.plan.base_tokens, rig.plan.batch));
  if (rig.TimeFor("resume", rig.options.geometry == "tiny" ? 0 : 20)) {
    TS_RETURN_IF_ERROR(MeasureResume(rig));
  }
  for (const int64_t tokens : rig.plan.prefills) TS_RETURN_IF_ERROR(MeasurePrefill(rig, tokens));
  if (rig.TimeFor("kernels", rig.options.geometry == "tiny" ? 0 : 15)) {
    TS_RETURN_IF_ERROR(MeasureKernels(rig));
  }
  for (auto context = contexts.rbegin(); context != contexts.rend(); ++context) {
    for (const int32_t batch : {1, rig.plan.batch}) {
      const bool done =
          *context == rig.plan.base_tokens || (*context == contexts.front() && batch == 1);
      if (!done) TS_RETURN_IF_ERROR(DecodeGroup(rig, *context, batch));
    }
  }
  return absl::OkStatus();
}

void PrintTargets(const json& lines) {
  for (const json& line : lines) {
    const std::string measured =
        line.contains("measured") ? absl::StrCat(line["measured"].get<double>()) : "-";
    std::fprintf(stderr, "target %s  %-68s %s %-8g measured %-10s %s\n",
                 line["id"].get<std::string>().c_str(), line["what"].get<std::string>().c_str(),
                 line["wants"].get<std::string>().c_str(), line["target"].get<double>(),
                 measured.c_str(), line["verdict"].get<std::string>().c_str());
  }
}

absl::Status Run(const BenchOptions& options) {
  TS_ASSIGN_OR_RETURN(const std::unique_ptr<Rig> rig, Rig::Make(options));
  rig->results.update(Describe(*rig));
  const absl::Status measured = MeasureAll(*rig);
  // What was found before a failure is worth as much.
  if (!measured.ok()) rig->results["failed"] = std::string(measured.message());
  if (!rig->results.contains("session_bytes")) AddMemoryQuotes(*rig);
  const StepStats steps = rig->ops().step_stats();
  rig->results["step_stats"] = {{"steps", steps.steps},
                                {"graph_launches", steps.graph_launches},
                                {"flushed", steps.flushed},
                                {"launches", steps.launches},
                                {"graphs_built", steps.graphs_built},
                                {"nodes_updated", steps.nodes_updated}};
  rig->results["targets"] = TargetLines(rig->results);
  rig->results["seconds"] = rig->clock.seconds();
  rig->results["seconds_budget"] = options.seconds;
  PrintTargets(rig->results["targets"]);
  std::printf("%s\n", rig->results.dump(2).c_str());
  return measured;
}

}  // namespace
}  // namespace tailor::bench

int main(int argc, char** argv) {
  tailor::bench::BenchOptions options;
  CLI::App app("The GPU benchmark: JSON to stdout, a table to stderr");
  app.add_option("--backend", options.backend, "cuda, or cpu for a look at the JSON")
      ->check(CLI::IsMember({"cuda", "cpu"}));
  app.add_option("--cuda-module", options.cuda_module,
                 "Another module than the one beside this program");
  app.add_option("--geometry", options.geometry, "llama-3.1-8b or tiny");
  app.add_option("--seconds", options.seconds, "Least important cases are dropped beyond this");
  app.add_option("--rounds", options.rounds, "Alternations of the contestants");
  app.add_option("--round-steps", options.round_steps, "Steps of a contestant in one alternation");
  app.add_option("--threads", options.threads, "Of the host; 0: one per core");
  app.add_option("--device-memory", options.device_memory_bytes, "Bytes; 0: what is free");
  app.add_option("--layers", options.layers, "Of the geometry's, for a quick try; 0: all");
  app.add_option("--base-tokens", options.base_tokens,
                 "Longest context kept; longer repeat its pages");
  app.add_option("--revision", options.revision, "What was built, for the JSON");
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = tailor::bench::Run(options);
  if (status.ok()) return 0;
  std::fprintf(stderr, "gpu_bench: %s\n", std::string(status.message()).c_str());
  // 77: skipped, no device.
  return absl::IsUnavailable(status) ? 77 : 1;
}
