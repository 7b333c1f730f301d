// Prefill of a whole prompt, and the time to the next token of a sequence whose worker memory was
// dropped.
#include <algorithm>
#include <cstdio>

#include "common/status.h"
#include "tests/bench/gpu/rig.h"

namespace tailor::bench {
namespace {

const char* const kKindNames[kMemoryKinds] = {"workspace", "weights",  "codes",
                                              "sketch",    "resident", "row_cache"};

nlohmann::json ToJson(const MemoryUse& use) {
  nlohmann::json peak = {{"total", use.total_peak}};
  for (int kind = 0; kind < kMemoryKinds; ++kind) peak[kKindNames[kind]] = use.peak[kind];
  return peak;
}

}  // namespace

absl::Status MeasurePrefill(Rig& rig, int64_t tokens) {
  const std::string name = absl::StrCat("prefill of ", tokens, " tokens");
  const double flops = PrefillFlops(rig.shape(), tokens), floor_s = flops / rig.ceilings.gemm;
  if (!rig.TimeFor(name, 1.5 * floor_s)) return absl::OkStatus();
  const LayerPolicy policy = rig.PolicyOf(rig.plan.longbench, Path::kSketch);
  const MemoryUse before = rig.ops().TakeMemoryUse();  // peaks start here
  TS_ASSIGN_OR_RETURN(CutSequence sequence, rig.Open(CacheMode::kHybrid, policy, tokens + 1));
  const Stopwatch watch;
  auto prefill =
      Prefill::Start(rig.model->model, rig.RandomTokens(tokens, 100 + tokens), *sequence.cache);
  if (absl::IsResourceExhausted(prefill.status())) {
    rig.Skip(name, std::string(prefill.status().message()));
    return absl::OkStatus();
  }
  if (!prefill.ok()) return prefill.status();
  // One that is this slow says so by the share it has done; others want the time.
  const double limit_s = 10 * floor_s + 10;
  bool late = false;
  while (!(*prefill)->done() && !late) {
    const absl::Status unit = (*prefill)->RunUnit(rig.model->buffers);
    if (absl::IsResourceExhausted(unit)) {
      rig.Skip(name, std::string(unit.message()));
      return absl::OkStatus();
    }
    TS_RETURN_IF_ERROR(unit);
    late = rig.seconds_left() < 0 || watch.seconds() > limit_s;
  }
  rig.ops().Synchronize();
  const double seconds = watch.seconds();
  const double done =
      static_cast<double>((*prefill)->done_work()) / static_cast<double>((*prefill)->total_work());
  const MemoryUse use = rig.ops().TakeMemoryUse();
  const bool whole = (*prefill)->done();
  rig.results["prefill"].push_back({{"tokens", tokens},
                                    {"whole", whole},
                                    {"done_share", done},
                                    {"seconds", seconds},
                                    {"flops", flops},
                                    {"tflop_s", done * flops / seconds / 1e12},
                                    {"share_of_gemm", done * floor_s / seconds},
                                    {"floor_seconds", floor_s},
                                    {"held_before_bytes", before.capacity - before.free_bytes()},
                                    {"peak_device_bytes", ToJson(use)}});
  std::fprintf(stderr,
               "prefill %8lld  %8.2f s%s  floor %6.2f s  %5.1f %% of the GEMM rate, peak %.2f GB\n",
               static_cast<long long>(tokens), seconds, whole ? "" : " (broken off)", floor_s,
               100 * done * floor_s / seconds, static_cast<double>(use.total_peak) / 1e9);
  return absl::OkStatus();
}

absl::Status MeasureResume(Rig& rig) {
  const int64_t tokens = rig.plan.base_tokens;
  for (const Path path : {Path::kSketch, Path::kStore}) {
    for (const bool verifies : {false, true}) {
      const std::string name(ToString(path));
      const LayerPolicy policy = rig.PolicyOf(rig.plan.longbench, path);
      rig.store->set_verifies(verifies);
      (void)rig.store->TakeVerifySeconds();
      std::vector<double> ms;
      double verify_ms = 0;
      const int tries = verifies || rig.options.geometry == "tiny" ? 1 : rig.options.rounds;
      for (int i = 0; i < tries; ++i) {
        rig.ops().Synchronize();
        const Stopwatch watch;
        std::vector<CutSequence> one(1);
        TS_ASSIGN_OR_RETURN(one[0], rig.Cut(path, policy, tokens, 8));
        TS_RETURN_IF_ERROR(rig.Step(policy, one));
        rig.ops().Synchronize();
        ms.push_back(watch.seconds() * 1e3);
        verify_ms = rig.store->TakeVerifySeconds() * 1e3;
      }
      rig.store->set_verifies(false);
      rig.results["resume"].push_back({{"path", name},
                                       {"tokens", tokens},
                                       {"pages_verified", verifies},
                                       {"ms_to_next_token", Median(ms)},
                                       {"of_it_verifying_ms", verify_ms}});
      std::fprintf(stderr, "resume %8lld  %-8s %9.2f ms to the next token%s\n",
                   static_cast<long long>(tokens), name.c_str(), Median(ms),
                   verifies ? ", pages verified as the worker does" : ", without verification");
    }
  }
  return absl::OkStatus();
}

// Exact by Quote, whatever fits here.
void AddMemoryQuotes(Rig& rig) {
  for (const Path path : {Path::kFull, Path::kSketch, Path::kStore}) {
    const LayerPolicy policy = rig.PolicyOf(rig.plan.longbench, path);
    const LayerBytes bytes = SequenceCache::Quote(
        policy, rig.model->pool.shape(),
        path == Path::kFull ? CacheMode::kFull : CacheMode::kHybrid, rig.plan.base_tokens);
    rig.results["session_bytes"][std::string(ToString(path))] = bytes.total();
  }
}

}  // namespace tailor::bench
