// What every part of the benchmark shares: options, a clock with a budget, the model with its store
// in this process, one sealed sequence of random rows from which the others are cut, and the
// results.
#pragma once

#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kvstore/transport/served_page_store.h"
#include "kvstore/transport/shm_server.h"
#include "tests/bench/gpu/bench_store.h"
#include "tests/bench/gpu/step_bytes.h"
#include "tests/support/random_model.h"
#include "worker/cache/doorbell_fetcher.h"

namespace tailor::bench {

// What selection costs: channels scored, rows fetched, rows resident. The published settings also
// have the group's mean query, no second look and no estimate of what is not fetched; `default` is
// what a policy without a file does, all of these on.
struct Budget {
  std::string name;
  int32_t channels = 0, sink_tokens = 0, recent_tokens = 0, top_k = 0;
  bool published = true;
};

struct BenchOptions {
  std::string backend = "cuda", cuda_module, geometry = "llama-3.1-8b", revision = "unknown";
  double seconds = 450;  // no case starts that would pass it by its estimate
  int threads = 0;
  int rounds = 5, round_steps = 8;
  int64_t device_memory_bytes = 0;  // 0: what is free
  int32_t layers = 0;               // of the geometry's, for a quick try; 0: all
  int64_t base_tokens = 0;          // the longest context that is kept; 0: the plan's
};

// The geometry and what is measured of it.
struct BenchPlan {
  LlamaHyperparameters shape;
  Budget longbench, ruler, standard;
  std::vector<int64_t> contexts;  // ascending; longer ones than `base_tokens` repeat its pages
  int64_t base_tokens = 0;        // whole pages
  std::vector<int64_t> prefills;  // the most important first
  int32_t batch = 8;
  int64_t copy_bytes = 0;  // of each ceiling's copy
  int64_t chunk_tokens = 0;
};
absl::StatusOr<BenchPlan> PlanOf(const BenchOptions& options);

class Stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

double Median(std::vector<double> values);
double Quantile(std::vector<double> values, double q);
int64_t AvailableHostBytes();

// A sequence cut from the base, closed when it goes.
struct CutSequence {
  std::unique_ptr<SequenceCache> cache;
  BenchStore* store = nullptr;
  CutSequence() = default;
  CutSequence(CutSequence&&) = default;
  CutSequence& operator=(CutSequence&&) = default;
  ~CutSequence();
};

class Rig {
 public:
  // Starts the store, makes the weights and fills the base. Errors: Unavailable without a device;
  // ResourceExhausted where weights or base do not fit.
  static absl::StatusOr<std::unique_ptr<Rig>> Make(const BenchOptions& options);
  ~Rig();

  LayerPolicy PolicyOf(const Budget& budget, Path path) const;
  // The first `tokens` tokens of the base (again and again where it is shorter), with room for
  // `more`. kEmpty: none.
  absl::StatusOr<CutSequence> Cut(Path path, const LayerPolicy& policy, int64_t tokens,
                                  int64_t more);
  // One token of each sequence: the one place that knows how batches step.
  absl::Status Step(const LayerPolicy& policy, std::span<const CutSequence> sequences);
  // A sequence without tokens, outside the base.
  absl::StatusOr<CutSequence> Open(CacheMode mode, const LayerPolicy& policy, int64_t tokens);
  std::vector<TokenId> RandomTokens(int64_t count, uint64_t seed) const;

  double weight_bytes_per_step() const;  // all but the embedding's
  // The base as a selection sees it.
  SealedPages BasePages() const {
    return {.pool = &model->pool, .pages = base_pages_.pages, .sequence = base_pages_.handle};
  }
  Backend& ops() { return *model->backend; }
  const LlamaHyperparameters& shape() const { return plan.shape; }
  // Whether a case may start; otherwise it goes to results["dropped"] with the seconds it wants.
  bool TimeFor(const std::string& name, double estimate_seconds);
  void Skip(const std::string& name, const std::string& reason);
  double seconds_left() const { return options.seconds - clock.seconds(); }

  const BenchOptions options;
  BenchPlan plan;
  Stopwatch clock;
  Ceilings ceilings;
  nlohmann::json results;
  // Order matters: sequences go before the model, the model's maps before the store's memory.
  std::unique_ptr<ServedPageStore> served;
  std::unique_ptr<ShmServer> server;
  std::unique_ptr<MeasuredModel> model;
  BenchStore* store = nullptr;  // the model's
  std::unique_ptr<DoorbellLine> doorbell;

 private:
  explicit Rig(const BenchOptions& made_of) : options(made_of) {}
  absl::Status StartStore();
  absl::Status MakeModel();
  absl::Status FillBase();

  CutSequence base_;
  std::vector<TokenId> base_tokens_;
  SequenceGrant base_pages_;  // a sequence of exactly the base's sealed pages
  int64_t opened_ = 0;
};

// The parts, in files of their own; each adds to rig.results.
absl::Status MeasureCeilings(Rig& rig);
absl::Status MeasureKernels(Rig& rig);
// `contestants` of one context and batch alternate.
struct DecodeCase {
  Path path;
  Budget budget;
  int32_t row_cache_rows = 0;
};
absl::Status MeasureDecode(Rig& rig, int64_t context, int32_t batch,
                           const std::vector<DecodeCase>& contestants);
std::vector<DecodeCase> AllDecodeCases(const BenchPlan& plan);
absl::Status MeasurePrefill(Rig& rig, int64_t tokens);
absl::Status MeasureResume(Rig& rig);
void AddMemoryQuotes(Rig& rig);

}  // namespace tailor::bench
