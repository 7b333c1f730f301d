#include "worker/quality/policy_search.h"

#include <algorithm>

#include "absl/strings/str_join.h"
#include "common/status.h"

namespace tailor {

namespace {

// To how many rows the fewest that reach a quality are found: fewer tell no policies apart.
constexpr int64_t kRowStep = 16;

}  // namespace

int64_t SearchSpace::MaxTried(size_t dense_layers) const {
  const size_t values = bits.size() + residual_tokens.size() + channels.size() +
                        rescore_extra.size() + tail_gain.size() + dense_layers + 1;
  int64_t steps = 0;  // halvings between two numbers of the ladder
  for (int64_t gap = top_k.empty() ? 0 : top_k.back(); gap > kRowStep; gap = (gap + 1) / 2) ++steps;
  // The ladder of rows twice more when it shrinks: evenly, and by layer. Start, group, query, no
  // tail, the rows that fill a limit, and one allocation.
  return static_cast<int64_t>(values + 3 * top_k.size() + 7) + steps;
}

absl::Status PolicySearch::Measure(const LayerPolicy& policy, const std::string& step) {
  MeasuredPolicy measured = {.policy = policy,
                             .step = step,
                             .cost = PolicyCost::Of(policy, in_.shape, in_.context_tokens),
                             .quality = {}};
  TS_ASSIGN_OR_RETURN(measured.quality, measure_(policy, step));
  measured_.push_back(std::move(measured));
  return absl::OkStatus();
}

absl::Status PolicySearch::Try(const LayerPolicy& base, const std::string& step,
                               const Change& change) {
  LayerPolicy policy = base;
  change(policy);
  if (!policy.Validate(in_.model, in_.start.weights).ok()) return absl::OkStatus();
  const Fingerprint id = policy.fingerprint();
  for (const MeasuredPolicy& known : measured_) {
    if (known.policy.fingerprint() == id) return absl::OkStatus();
  }
  const PolicyCost cost = PolicyCost::Of(policy, in_.shape, in_.context_tokens);
  const double allowed = ByteExcess(best().cost, limits_);
  if (ByteExcess(cost, limits_) > allowed) return absl::OkStatus();
  return Measure(policy, step);
}

absl::Status PolicySearch::TryRows(const LayerPolicy& base, int64_t top_k) {
  return Try(base, absl::StrCat("top_k ", top_k), [&](LayerPolicy& policy) {
    policy.select.top_k = static_cast<int32_t>(top_k);
    policy.layer_top_k.clear();
  });
}

absl::Status PolicySearch::TryEach(const char* name, const std::vector<int32_t>& values,
                                   const std::function<void(LayerPolicy&, int32_t)>& set) {
  const LayerPolicy base = best().policy;
  for (const int32_t value : values) {
    TS_RETURN_IF_ERROR(Try(base, absl::StrCat(name, " ", value),
                           [&](LayerPolicy& policy) { set(policy, value); }));
  }
  return absl::OkStatus();
}

// The start, then every number of rows whatever the limits: their curve shows what a limit costs,
// and the recalls of each layer along it say where rows are worth most.
absl::Status PolicySearch::MeasureStart() {
  TS_RETURN_IF_ERROR(Measure(in_.start, "default"));
  if (limits_.empty()) {
    limits_.device_bytes = measured_[0].cost.device_bytes;
    limits_.fetched_bytes = measured_[0].cost.fetched_bytes;
  }
  curves_.resize(in_.model.layers);
  for (const int32_t top_k : in_.space.top_k) {
    LayerPolicy policy = in_.start;
    policy.select.top_k = top_k;
    size_t at = 0;  // the start has one of the numbers, as a rule
    if (policy.fingerprint() != in_.start.fingerprint()) {
      at = measured_.size();
      TS_RETURN_IF_ERROR(Measure(policy, absl::StrCat("top_k ", top_k)));
    }
    for (int32_t layer = 0; layer < in_.model.layers; ++layer) {
      const LayerQuality& quality = measured_[at].quality.layers[layer];
      if (quality.has_recall()) curves_[layer].emplace_back(top_k, quality.mean_recall());
    }
  }
  return absl::OkStatus();
}

absl::Status PolicySearch::TryLayers() {
  const LayerPolicy base = best().policy;
  for (size_t count = 0; count <= in_.dense_layers.size(); ++count) {
    std::vector<int32_t> layers(in_.dense_layers.begin(), in_.dense_layers.begin() + count);
    std::sort(layers.begin(), layers.end());
    TS_RETURN_IF_ERROR(Try(base,
                           absl::StrCat("quantized layers [", absl::StrJoin(layers, ","), "]"),
                           [&](LayerPolicy& policy) { policy.quantized_layers = layers; }));
  }
  return absl::OkStatus();
}

absl::Status PolicySearch::TryQuantization() {
  if (best().policy.quantized_layers.empty()) return absl::OkStatus();  // the numbers mean nothing
  TS_RETURN_IF_ERROR(
      TryEach("bits", in_.space.bits, [](LayerPolicy& p, int32_t v) { p.bits = v; }));
  return TryEach("residual", in_.space.residual_tokens,
                 [](LayerPolicy& p, int32_t v) { p.residual_tokens = v; });
}

absl::Status PolicySearch::TrySelection() {
  TS_RETURN_IF_ERROR(TryEach("channels", in_.space.channels,
                             [](LayerPolicy& p, int32_t v) { p.select.channels = v; }));
  TS_RETURN_IF_ERROR(TryEach("rescore_extra", in_.space.rescore_extra,
                             [](LayerPolicy& p, int32_t v) { p.select.rescore_extra = v; }));
  TS_RETURN_IF_ERROR(
      Try(best().policy, "group mean", [](LayerPolicy& p) { p.select.group = GroupRule::kMean; }));
  return Try(best().policy, "query predicted",
             [](LayerPolicy& p) { p.query = QueryMode::kPredicted; });
}

absl::Status PolicySearch::TryTail() {
  const LayerPolicy base = best().policy;
  TS_RETURN_IF_ERROR(Try(base, "tail none", [](LayerPolicy& p) { p.tail = Tail::kNone; }));
  for (const float gain : in_.space.tail_gain) {
    TS_RETURN_IF_ERROR(Try(base, absl::StrCat("tail_gain ", gain), [&](LayerPolicy& p) {
      p.tail = Tail::kPageMeans;
      p.tail_gain = gain;
    }));
  }
  return absl::OkStatus();
}

int64_t PolicySearch::MeanRows(const LayerPolicy& policy) const {
  const auto sparse = static_cast<int64_t>(policy.SparseLayers(in_.model.layers).size());
  return sparse == 0 ? 0 : FetchedRows(policy, in_.model.layers) / sparse;
}

// As many rows as the limit allows, which need be none of the ladder's numbers.
absl::Status PolicySearch::FillLimit() {
  if (!limits_.fetched_bytes || limits_.kl) return absl::OkStatus();
  LayerPolicy policy = best().policy;
  policy.layer_top_k.clear();
  policy.select.top_k = 1;
  const int64_t row_bytes = PolicyCost::Of(policy, in_.shape, in_.context_tokens).fetched_bytes;
  if (row_bytes == 0) return absl::OkStatus();
  const int64_t rows = std::min<int64_t>(*limits_.fetched_bytes / row_bytes, kMaxTopK);
  return rows < 1 ? absl::OkStatus() : TryRows(policy, rows);
}

// The same total, by layer.
absl::Status PolicySearch::Allocate(const LayerPolicy& base) {
  std::vector<RecallCurve> curves;
  std::vector<int32_t> layers;
  int64_t total = 0;
  const int64_t rows = MeanRows(base);
  for (const int32_t layer : base.SparseLayers(in_.model.layers)) {
    if (curves_[layer].empty()) continue;  // keeps its rows
    curves.push_back(curves_[layer]);
    layers.push_back(layer);
    total += rows;
  }
  const auto allocated = AllocateRows(curves, total);
  if (!allocated) return absl::OkStatus();
  return Try(base, absl::StrCat("top_k by layer, ", rows, " on average"), [&](LayerPolicy& policy) {
    policy.select.top_k = static_cast<int32_t>(rows);
    policy.layer_top_k.assign(in_.model.layers, static_cast<int32_t>(rows));
    for (size_t i = 0; i < layers.size(); ++i) {
      policy.layer_top_k[layers[i]] = (*allocated)[i];
    }
  });
}

// Where a quality is asked for: what else was found may reach it with fewer rows than before. Ends
// where neither fewer rows for all nor the same by layer reaches it.
absl::Status PolicySearch::ShrinkRows() {
  if (!limits_.kl) return absl::OkStatus();
  const std::vector<int32_t>& ladder = in_.space.top_k;
  for (auto rows = ladder.rbegin(); rows != ladder.rend(); ++rows) {
    const MeasuredPolicy before = best();
    if (*rows >= MeanRows(before.policy)) continue;
    TS_RETURN_IF_ERROR(TryRows(before.policy, *rows));
    LayerPolicy even = before.policy;
    even.select.top_k = *rows;
    even.layer_top_k.clear();
    TS_RETURN_IF_ERROR(Allocate(even));
    if (best().policy.fingerprint() == before.policy.fingerprint()) break;
  }
  return absl::OkStatus();
}

// Between the last number of the ladder that reached the quality and the next one, which did not.
absl::Status PolicySearch::BisectRows() {
  if (!limits_.kl || !MeetsLimits(best(), limits_)) return absl::OkStatus();
  int64_t low = 0, high = MeanRows(best().policy);
  for (const int32_t rows : in_.space.top_k) {
    if (rows < high) low = rows;
  }
  while (high - low > kRowStep) {
    const int64_t rows = (low + high) / 2;
    const MeasuredPolicy before = best();
    LayerPolicy even = before.policy;
    even.select.top_k = static_cast<int32_t>(rows);
    even.layer_top_k.clear();
    TS_RETURN_IF_ERROR(before.policy.layer_top_k.empty() ? TryRows(even, rows) : Allocate(even));
    const bool better = best().policy.fingerprint() != before.policy.fingerprint();
    (better ? high : low) = rows;
  }
  return absl::OkStatus();
}

absl::StatusOr<SearchResult> PolicySearch::Run() {
  TS_RETURN_IF_ERROR(MeasureStart());
  TS_RETURN_IF_ERROR(FillLimit());
  TS_RETURN_IF_ERROR(TryLayers());
  TS_RETURN_IF_ERROR(TryQuantization());
  TS_RETURN_IF_ERROR(TrySelection());
  TS_RETURN_IF_ERROR(TryTail());
  TS_RETURN_IF_ERROR(FillLimit());
  TS_RETURN_IF_ERROR(Allocate(best().policy));
  TS_RETURN_IF_ERROR(ShrinkRows());
  TS_RETURN_IF_ERROR(BisectRows());
  const size_t chosen = ChooseMeasured(measured_, limits_);
  return SearchResult{.limits = limits_, .measured = std::move(measured_), .chosen = chosen};
}

}  // namespace tailor
