// How many of the rows a step fetches were fetched a short while before: what a row cache in a
// device's memory would save. Real selections of a real text, teacher-forced; caches of several
// sizes and shapes are simulated beside one another, each a layer and KV head. JSON to stdout.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "common/text/tokenizer.h"
#include "worker/quality/measured_model.h"

namespace tailor {
namespace {

struct Options {
  std::string model_path, policy_path, text_path;
  MeasuredModelOptions model;
  int context_tokens = 3500, steps = 128, skip_bytes = 20000;
};

// Sets of `ways` slots, the least recently used of a set gives way; one set is fully associative.
struct CacheShape {
  int sets, ways;
};

class SimulatedCache {
 public:
  explicit SimulatedCache(const CacheShape& shape)
      : shape_(shape), slots_(static_cast<size_t>(shape.sets) * shape.ways) {}
  bool Fetch(int32_t token) {
    ++now_;
    const auto first = slots_.begin() + static_cast<int64_t>(token % shape_.sets) * shape_.ways;
    const auto last = first + shape_.ways;
    auto slot = std::find_if(first, last, [&](const Slot& s) { return s.token == token; });
    const bool hit = slot != last;
    if (!hit) {
      slot = std::min_element(first, last,
                              [](const Slot& a, const Slot& b) { return a.used < b.used; });
    }
    *slot = {token, now_};
    return hit;
  }

 private:
  struct Slot {
    int32_t token = -1;
    int64_t used = 0;
  };
  CacheShape shape_;
  std::vector<Slot> slots_;
  int64_t now_ = 0;
};

// Selects as `inline` does and shows every answer to the caches.
class ListeningFetcher final : public RowFetcher {
 public:
  ListeningFetcher(Backend* backend, const PoolShape& shape, const LayerPolicy& policy,
                   std::vector<CacheShape> shapes)
      : inner_(MakeInlineFetcher(backend, shape, policy.select, policy.layer_top_k)),
        kv_heads_(shape.kv_heads),
        shapes_(std::move(shapes)),
        hits_(shapes_.size()) {
    for (int32_t i = 0; i < shape.layers * kv_heads_; ++i) {
      caches_.emplace_back(shapes_.begin(), shapes_.end());
    }
  }
  absl::Status Post(int32_t layer, const SealedPages& sealed, std::span<const float> q) override {
    return inner_->Post(layer, sealed, q);
  }
  absl::StatusOr<SelectedRows> Take(int32_t layer) override {
    auto selected = inner_->Take(layer);
    if (!selected.ok()) return selected;
    for (int32_t head = 0; head < kv_heads_; ++head) {
      std::vector<SimulatedCache>& caches = caches_[layer * kv_heads_ + head];
      const auto tokens =
          selected->tokens.subspan(int64_t{head} * selected->count, selected->count);
      for (const int32_t token : tokens) {
        for (size_t i = 0; i < caches.size(); ++i) hits_[i] += caches[i].Fetch(token) ? 1 : 0;
      }
      rows_ += selected->count;
    }
    return selected;
  }
  // After the warm-up: from now on it counts.
  void Reset() {
    rows_ = 0;
    std::fill(hits_.begin(), hits_.end(), 0);
  }
  nlohmann::json Describe(int32_t head_dim) const {
    nlohmann::json out = nlohmann::json::array();
    for (size_t i = 0; i < shapes_.size(); ++i) {
      const int slots = shapes_[i].sets * shapes_[i].ways;
      out.push_back(
          {{"slots", slots},
           {"ways", shapes_[i].ways},
           {"hit_rate", static_cast<double>(hits_[i]) / static_cast<double>(rows_)},
           {"bytes_a_sequence", static_cast<int64_t>(caches_.size()) * slots * 4 * head_dim}});
    }
    return out;
  }

 private:
  std::unique_ptr<RowFetcher> inner_;
  int32_t kv_heads_;
  std::vector<CacheShape> shapes_;
  std::vector<std::vector<SimulatedCache>> caches_;  // [layers * kv_heads][shapes]
  std::vector<int64_t> hits_;                        // [shapes]
  int64_t rows_ = 0;
};

absl::Status Run(const Options& options) {
  MeasuredModelOptions model_options = options.model;
  const int warm_up = options.steps / 4;
  const int64_t total = options.context_tokens + warm_up + options.steps;
  model_options.context_tokens = total;
  TS_ASSIGN_OR_RETURN(auto bench,
                      MeasuredModel::Load(options.model_path, options.policy_path, model_options));
  std::ifstream file(options.text_path, std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  text = text.substr(std::min<size_t>(text.size(), options.skip_bytes), 8 * total);
  TS_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Create(bench->file->tokenizer()));
  TS_ASSIGN_OR_RETURN(const std::vector<TokenId> ids, tokenizer->Encode(text));
  if (static_cast<int64_t>(ids.size()) < total) {
    return absl::InvalidArgumentError(
        absl::StrCat("text has ", ids.size(), " tokens, need ", total));
  }
  TS_ASSIGN_OR_RETURN(auto cache, bench->Open("text", CacheMode::kHybrid, total));
  TS_RETURN_IF_ERROR(
      bench->RunPrefill({ids.begin(), ids.begin() + options.context_tokens}, *cache));
  const int k = bench->policy.select.top_k;
  std::vector<CacheShape> shapes;
  for (const int slots : {k, 2 * k, 4 * k, 8 * k}) {
    for (const int ways : {1, 4, slots}) shapes.push_back({slots / ways, ways});
  }
  auto listener = std::make_unique<ListeningFetcher>(bench->backend.get(), bench->pool.shape(),
                                                     bench->policy, shapes);
  ListeningFetcher& heard = *listener;
  cache->set_fetcher(std::move(listener));
  for (int step = 0; step < warm_up + options.steps; ++step) {
    if (step == warm_up) heard.Reset();
    TS_RETURN_IF_ERROR(bench->Step(ids[options.context_tokens + step], bench->policy, *cache));
  }
  const nlohmann::json out = {{"policy", bench->policy.Summary()},
                              {"context_tokens", options.context_tokens},
                              {"steps", options.steps},
                              {"caches", heard.Describe(bench->model.shape.head_dim)}};
  std::printf("%s\n", out.dump(2).c_str());
  return absl::OkStatus();
}

}  // namespace
}  // namespace tailor

int main(int argc, char** argv) {
  tailor::Options options;
  CLI::App app("Rows fetched again: what a row cache would save");
  app.add_option("--model", options.model_path)->required();
  app.add_option("--text", options.text_path)->required();
  app.add_option("--policy", options.policy_path);
  app.add_option("--threads", options.model.threads);
  app.add_option("--context", options.context_tokens);
  app.add_option("--steps", options.steps);
  app.add_option("--skip-bytes", options.skip_bytes);
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = tailor::Run(options);
  if (!status.ok()) {
    std::fprintf(stderr, "row_cache_bench: %s\n", std::string(status.message()).c_str());
  }
  return status.ok() ? 0 : 1;
}
