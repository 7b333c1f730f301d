// Decode steps of several ways to attend, which alternate within one run: medians of the
// alternations, the tail over all steps, the time against the floor, the bytes against the
// formulas.
#include <algorithm>
#include <cstdio>

#include "common/status.h"
#include "tests/bench/gpu/rig.h"
#include "worker/cache/device_fetcher.h"

namespace tailor::bench {
namespace {

struct Contestant {
  DecodeCase what;
  std::string name;
  LayerPolicy policy;
  std::vector<CutSequence> sequences;
  std::vector<double> rounds_ms, steps_ms;
  CacheTotals before;  // of all sequences, when measuring began
  int64_t steps = 0;
};

CacheTotals TotalsOf(const Contestant& c) {
  CacheTotals sum;
  for (const CutSequence& sequence : c.sequences) {
    const CacheTotals one = sequence.cache->totals();
    sum.worker.codes += one.worker.codes;
    sum.worker.resident += one.worker.resident;
    sum.worker.sketch += one.worker.sketch;
    sum.worker.row_cache += one.worker.row_cache;
    sum.rows_fetched += one.rows_fetched;
    sum.bytes_fetched += one.bytes_fetched;
    sum.rows_cached += one.rows_cached;
  }
  return sum;
}

std::string NameOf(const DecodeCase& what) {
  std::string name(ToString(what.path));
  if (what.path == Path::kEmpty || what.path == Path::kFull) return name;
  absl::StrAppend(&name, " ", what.budget.name);
  if (what.row_cache_rows > 0) absl::StrAppend(&name, ", row cache ", what.row_cache_rows);
  return name;
}

// Empty where the case can run here, else why not.
std::string Obstacle(Rig& rig, const Contestant& c, int64_t context, int32_t batch) {
  if (c.what.path == Path::kStore && context > rig.plan.base_tokens) {
    return "the store has no so long sequence: its pages are repeated";
  }
  if (c.what.path == Path::kDevice && rig.ops().device_select() == nullptr) {
    return "this backend has no selection kernels";
  }
  const MemoryUse use = rig.ops().TakeMemoryUse();
  if (use.capacity == 0 || c.what.path == Path::kEmpty) return "";
  const CacheMode mode = c.what.path == Path::kFull ? CacheMode::kFull : CacheMode::kHybrid;
  const int64_t need =
      batch * SequenceCache::Quote(c.policy, rig.model->pool.shape(), mode, context).total();
  // Scratch of ops grows as they first run, and ends the process where there is no room for it.
  const int64_t spare = std::min(int64_t{1} << 30, use.capacity / 16);
  if (need + spare <= use.free_bytes()) return "";
  return absl::StrCat("device memory: ", need, " bytes needed and ", spare, " spared, ",
                      use.free_bytes(), " there");
}

absl::StatusOr<bool> Prepare(Rig& rig, int64_t context, int32_t batch, int64_t steps,
                             Contestant& c) {
  const std::string case_name =
      absl::StrCat("decode ", c.name, ", ", context, " tokens, batch ", batch);
  const std::string obstacle = Obstacle(rig, c, context, batch);
  if (!obstacle.empty()) {
    rig.Skip(case_name, obstacle);
    return false;
  }
  for (int32_t i = 0; i < batch; ++i) {
    auto cut = rig.Cut(c.what.path, c.policy, context, steps);
    if (absl::IsResourceExhausted(cut.status())) {
      rig.Skip(case_name, std::string(cut.status().message()));
      c.sequences.clear();
      return false;
    }
    if (!cut.ok()) return cut.status();
    c.sequences.push_back(*std::move(cut));
  }
  TS_RETURN_IF_ERROR(rig.Step(c.policy, c.sequences));  // buffers and caches are made
  TS_RETURN_IF_ERROR(rig.Step(c.policy, c.sequences));
  c.before = TotalsOf(c);
  return true;
}

absl::Status Round(Rig& rig, int steps, Contestant& c) {
  double sum = 0;
  for (int i = 0; i < steps; ++i) {
    const Stopwatch watch;
    TS_RETURN_IF_ERROR(rig.Step(c.policy, c.sequences));
    rig.ops().Synchronize();
    c.steps_ms.push_back(watch.seconds() * 1e3);
    sum += c.steps_ms.back();
  }
  c.steps += steps;
  c.rounds_ms.push_back(sum / steps);
  return absl::OkStatus();
}

// What the caches say a step moved. Device: weights, full-precision rows, codes and the scored part
// of the sketch that a step reads, and fetched rows written and read.
StepBytes CountedBytes(Rig& rig, const Contestant& c, int64_t context, int32_t batch) {
  const CacheTotals now = TotalsOf(c);
  const LlamaHyperparameters& m = rig.shape();
  const double steps = static_cast<double>(c.steps);
  const double fetched = static_cast<double>(now.bytes_fetched - c.before.bytes_fetched) / steps;
  const double all_rows = static_cast<double>(now.rows_fetched - c.before.rows_fetched) / steps *
                          2 * m.head_dim * sizeof(BFloat16);
  StepBytes bytes;
  bytes.device = rig.weight_bytes_per_step() + 2 * all_rows;
  bytes.pcie_rows = fetched;
  bytes.host = fetched;
  const double row = 2.0 * m.kv_heads * m.head_dim * sizeof(BFloat16);
  const double layers = m.layers;
  if (c.what.path == Path::kEmpty) return bytes;
  if (c.what.path == Path::kFull) {
    bytes.device += batch * static_cast<double>(context) * row * layers;
    return bytes;
  }
  // The window reaches from the last sealed page on; the codes cover what is before.
  const int64_t sealed = (context - c.policy.WindowTokens()) / kPageTokens;
  const auto window = static_cast<double>(context - sealed * kPageTokens);
  bytes.device += batch * (window * layers + c.policy.sink_tokens * (layers - 1)) * row +
                  static_cast<double>(now.worker.codes);
  const double share = double{1} * c.policy.select.channels / m.head_dim;
  if (c.what.path == Path::kSketch && now.worker.sketch > 0) {
    bytes.device += share * static_cast<double>(now.worker.sketch);
    return bytes;
  }
  const double scored = share * batch * static_cast<double>(sealed) *
                        static_cast<double>(SketchPageBytes(rig.model->pool.shape()));
  bytes.host += scored;
  (c.what.path == Path::kDevice ? bytes.pcie_channels : bytes.host_scoring) = scored;
  return bytes;
}

nlohmann::json ToJson(const StepBytes& b) {
  return {{"device", b.device}, {"pcie", b.pcie_channels + b.pcie_rows}, {"host", b.host}};
}

void Report(Rig& rig, const Contestant& c, int64_t context, int32_t batch) {
  const StepBytes formula =
      StepBytesOf(rig.shape(), c.policy, c.what.path, context, batch, rig.weight_bytes_per_step());
  const CacheTotals totals = TotalsOf(c);
  const double ms = Median(c.rounds_ms), floor_ms = SerialFloor(formula, rig.ceilings) * 1e3;
  const int64_t rows = totals.rows_fetched - c.before.rows_fetched;
  rig.results["decode"].push_back(
      {{"path", std::string(ToString(c.what.path))},
       {"selector_run",
        c.what.path == Path::kEmpty || c.what.path == Path::kFull
            ? std::string("none")
            : std::string(ToString(RunnableSelector(c.policy.selector, rig.ops())))},
       {"budget", c.what.budget.name},
       {"row_cache_rows", c.what.row_cache_rows},
       {"context", context},
       {"pages_repeated", std::max<int64_t>(1, context / rig.plan.base_tokens)},
       {"batch", batch},
       {"rounds", c.rounds_ms.size()},
       {"steps", c.steps},
       {"ms", ms},
       {"p99_ms", Quantile(c.steps_ms, 0.99)},
       {"tokens_per_second", batch * 1e3 / ms},
       {"floor_ms", floor_ms},
       {"ms_over_floor", ms / floor_ms},
       {"row_hit_rate", rows > 0 ? static_cast<double>(totals.rows_cached - c.before.rows_cached) /
                                       static_cast<double>(rows)
                                 : 0.0},
       {"bytes",
        {{"formula", ToJson(formula)}, {"counted", ToJson(CountedBytes(rig, c, context, batch))}}},
       {"worker_bytes",
        {{"codes", totals.worker.codes},
         {"resident", totals.worker.resident},
         {"sketch", totals.worker.sketch},
         {"row_cache", totals.worker.row_cache}}}});
  std::fprintf(stderr, "decode %8lld x %d  %-28s %9.3f ms  p99 %9.3f  floor %8.3f  ratio %6.2f\n",
               static_cast<long long>(context), batch, c.name.c_str(), ms,
               Quantile(c.steps_ms, 0.99), floor_ms, ms / floor_ms);
}

}  // namespace

std::vector<DecodeCase> AllDecodeCases(const BenchPlan& plan) {
  std::vector<DecodeCase> cases = {{Path::kEmpty, plan.longbench}, {Path::kFull, plan.longbench}};
  for (const Path path : {Path::kSketch, Path::kStore, Path::kDevice, Path::kInline}) {
    cases.push_back({path, plan.longbench});
    cases.push_back({path, plan.ruler});
  }
  cases.push_back({Path::kSketch, plan.standard, 512});
  return cases;
}

absl::Status MeasureDecode(Rig& rig, int64_t context, int32_t batch,
                           const std::vector<DecodeCase>& cases) {
  const int64_t steps = 2 + int64_t{rig.options.rounds} * rig.options.round_steps;
  std::vector<Contestant> running;
  for (const DecodeCase& what : cases) {
    Contestant c = {.what = what,
                    .name = NameOf(what),
                    .policy = rig.PolicyOf(what.budget, what.path),
                    .sequences = {},
                    .rounds_ms = {},
                    .steps_ms = {},
                    .before = {}};
    c.policy.row_cache_rows = what.row_cache_rows;
    TS_ASSIGN_OR_RETURN(const bool ready, Prepare(rig, context, batch, steps, c));
    if (ready) running.push_back(std::move(c));
  }
  for (int round = 0; round < rig.options.rounds; ++round) {
    for (Contestant& c : running) TS_RETURN_IF_ERROR(Round(rig, rig.options.round_steps, c));
  }
  for (const Contestant& c : running) Report(rig, c, context, batch);
  return absl::OkStatus();
}

}  // namespace tailor::bench
