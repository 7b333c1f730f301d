#include "worker/quality/calibration.h"

#include <algorithm>

#include "common/cpu/simd_level.h"
#include "common/status.h"
#include "worker/quality/text_input.h"

namespace tailor {
namespace {

using nlohmann::json;

// Grows when the same inputs would give other results than before.
constexpr int kHarnessVersion = 1;
constexpr char kMeasured[] = "measured", kScores[] = "scores";

PoolShape ShapeOf(const LlamaHyperparameters& shape) {
  return {.layers = shape.layers,
          .kv_heads = shape.kv_heads,
          .head_dim = shape.head_dim,
          .sparse_layers = {}};
}

// What sha256sum prints.
Fingerprint Sha256(const std::string& text) {
  return Fingerprinter().AddBytes(std::as_bytes(std::span(text))).Finish();
}

CalibrationEvidence::Quality QualityOf(const TextSummary& summary) {
  CalibrationEvidence::Quality quality = {.kl = summary.kl.mean,
                                          .kl_error = summary.kl.standard_error,
                                          .agreement = summary.agreement.mean,
                                          .perplexity_ratio = summary.perplexity_ratio.mean,
                                          .recall = {}};
  for (const LayerQuality& layer : summary.layers) {
    quality.recall.emplace_back();
    if (layer.has_recall()) quality.recall.back() = std::min(1.0, layer.mean_recall());
  }
  return quality;
}

json ToJson(const std::vector<CalibrationEvidence::Text>& texts) {
  json out = json::array();
  for (const auto& text : texts) out.push_back(text.sha256.ToHex());
  return out;
}

}  // namespace

Calibration::Calibration(std::unique_ptr<ModelFile> file, const CalibrationOptions& options)
    : file_(std::move(file)),
      model_name_(file_->name()),
      weights_(file_->fingerprint()),
      shape_(file_->hyperparameters()),
      options_(options) {
  options_.scoring.last_queries =
      std::min(options_.scoring.last_queries, options_.text.decode_tokens);
}

absl::StatusOr<std::unique_ptr<Calibration>> Calibration::Plan(std::unique_ptr<ModelFile> file,
                                                               const CalibrationOptions& options) {
  std::unique_ptr<Calibration> plan(new Calibration(std::move(file), options));
  TS_ASSIGN_OR_RETURN(plan->tokenizer_, Tokenizer::Create(plan->file_->tokenizer()));
  TS_RETURN_IF_ERROR(CheckWindow(options.text, plan->shape_));
  TS_RETURN_IF_ERROR(plan->CutTexts());
  TS_RETURN_IF_ERROR(plan->ReadLog());
  return plan;
}

absl::Status Calibration::CutTexts() {
  const auto cut = [&](const std::filesystem::path& path, int windows,
                       std::vector<CalibrationEvidence::Text>* texts,
                       std::vector<Window>* out) -> absl::Status {
    TS_ASSIGN_OR_RETURN(const InputFile input, ReadInput(path));
    TextOptions options = options_.text;
    options.windows = windows;
    TS_ASSIGN_OR_RETURN(auto ids,
                        CutText(input.text, path, *tokenizer_, file_->tokenizer(), options));
    texts->push_back({path.filename().string(), Sha256(input.text)});
    for (size_t w = 0; w < ids.size(); ++w) {
      // The number of windows is part of where one begins.
      out->push_back(
          {absl::StrCat(texts->back().sha256.ToHex().substr(0, 16), "/", w, "of", windows),
           std::move(ids[w]), nullptr});
    }
    return absl::OkStatus();
  };
  const int extra = options_.held_out.empty() ? 1 : 0;
  for (const std::filesystem::path& path : options_.texts) {
    TS_RETURN_IF_ERROR(cut(path, options_.text.windows + extra, &texts_, &windows_));
    if (extra == 0) continue;
    held_out_windows_.push_back(std::move(windows_.back()));
    windows_.pop_back();
  }
  for (const std::filesystem::path& path : options_.held_out) {
    TS_RETURN_IF_ERROR(cut(path, options_.text.windows, &held_out_texts_, &held_out_windows_));
  }
  return absl::OkStatus();
}

absl::Status Calibration::ReadLog() {
  const json header = {{"harness_version", kHarnessVersion},
                       {"weights", weights_.ToHex()},
                       {"simd", std::string(ToString(DetectSimdLevel()))},
                       {"context_tokens", options_.text.context_tokens},
                       {"decode_tokens", options_.text.decode_tokens},
                       {"windows", options_.text.windows},
                       {"last_queries", options_.scoring.last_queries},
                       {"texts", ToJson(texts_)},
                       {"held_out_texts", ToJson(held_out_texts_)}};
  TS_ASSIGN_OR_RETURN(log_, ResultLog::Open(options_.out / "measured", header));
  TS_RETURN_IF_ERROR(log_->Read(kMeasured));
  return log_->Read(kScores);
}

absl::Status Calibration::Show(const std::string& what) const {
  return (*progress_)(absl::StrCat(step_, ", ", what), done_, total_);
}

absl::StatusOr<PreparedWindow*> Calibration::Prepared(Window& window) {
  if (window.prepared != nullptr) return window.prepared.get();
  if (model_ == nullptr) {
    TS_RETURN_IF_ERROR(Show("loading the model"));
    // No layer is quantized, so that each has an index and any may be left sparse.
    LayerPolicy all_sparse = LayerPolicy::Default(model_name_, weights_, shape_);
    all_sparse.quantized_layers.clear();
    const int64_t tokens = options_.text.WindowTokens();
    TS_ASSIGN_OR_RETURN(const int64_t bytes,
                        MeasuredModel::ArenaBytes(shape_, all_sparse, tokens,
                                                  options_.text.decode_tokens, /*forks=*/2));
    const auto windows = static_cast<int64_t>(std::max(windows_.size(), held_out_windows_.size()));
    TS_ASSIGN_OR_RETURN(model_, MeasuredModel::Create(std::move(file_), all_sparse,
                                                      {.threads = options_.threads,
                                                       .context_tokens = tokens,
                                                       .arena_bytes = bytes * windows}));
  }
  TS_ASSIGN_OR_RETURN(
      window.prepared,
      PreparedWindow::Prepare(*model_, window.id, window.ids, options_.text, options_.scoring,
                              [&](const std::string& what) { return Show(what); }));
  return window.prepared.get();
}

absl::StatusOr<std::vector<double>> Calibration::ScoresOf(Window& window) {
  if (const json* kept = log_->Find(kScores, window.id); kept != nullptr) {
    const auto scores = kept->find("scores");
    if (scores != kept->end() && scores->is_array() &&
        scores->size() == static_cast<size_t>(shape_.layers) &&
        std::all_of(scores->begin(), scores->end(), [](const json& s) { return s.is_number(); })) {
      return scores->get<std::vector<double>>();
    }
    return absl::DataLossError(absl::StrCat("scores of window ", window.id, " are damaged"));
  }
  TS_ASSIGN_OR_RETURN(const PreparedWindow* prepared, Prepared(window));
  TS_RETURN_IF_ERROR(log_->Append(kScores, {{"id", window.id}, {"scores", prepared->scores()}}));
  return prepared->scores();
}

absl::StatusOr<std::vector<double>> Calibration::MeanScores() {
  std::vector<double> mean(shape_.layers, 0.0);
  for (Window& window : windows_) {
    TS_ASSIGN_OR_RETURN(const std::vector<double> scores, ScoresOf(window));
    for (size_t l = 0; l < mean.size(); ++l) {
      mean[l] += scores[l] / static_cast<double>(windows_.size());
    }
  }
  for (double& score : mean) score = std::min(1.0, score);
  return mean;
}

absl::StatusOr<WindowQuality> Calibration::MeasureWindow(Window& window,
                                                         const LayerPolicy& policy) {
  const std::string id = absl::StrCat(window.id, "/", policy.fingerprint().ToHex());
  if (const json* kept = log_->Find(kMeasured, id); kept != nullptr) {
    TS_ASSIGN_OR_RETURN(WindowQuality quality, WindowQuality::FromJson(*kept));
    if (quality.layers.size() == static_cast<size_t>(shape_.layers)) return quality;
    return absl::DataLossError(absl::StrCat("record ", id, " is damaged"));
  }
  TS_ASSIGN_OR_RETURN(PreparedWindow * prepared, Prepared(window));
  TS_ASSIGN_OR_RETURN(
      const WindowQuality quality,
      prepared->Measure(policy, [&](const std::string& what) { return Show(what); }));
  json record = quality.ToJson();
  record["id"] = id;
  TS_RETURN_IF_ERROR(log_->Append(kMeasured, record));
  return quality;
}

absl::StatusOr<TextSummary> Calibration::Measure(std::vector<Window>& windows,
                                                 const LayerPolicy& policy,
                                                 const std::string& step) {
  step_ = step;
  std::vector<WindowQuality> qualities;
  for (Window& window : windows) {
    TS_RETURN_IF_ERROR(Show("window"));
    TS_ASSIGN_OR_RETURN(qualities.emplace_back(), MeasureWindow(window, policy));
  }
  ++done_;
  return Summarise(qualities);
}

absl::Status Calibration::CloseWindows(std::vector<Window>& windows) {
  for (Window& window : windows) {
    if (window.prepared == nullptr) continue;
    TS_RETURN_IF_ERROR(window.prepared->Close());
    window.prepared.reset();
  }
  return absl::OkStatus();
}

absl::StatusOr<CalibrationResult> Calibration::Run(const ProgressFn& progress) {
  TS_CHECK(file_ != nullptr);  // once
  progress_ = &progress;
  CalibrationResult result;
  result.scoring = options_.scoring;
  step_ = "dense preference";
  TS_ASSIGN_OR_RETURN(result.scores, MeanScores());
  result.dense_layers = DenseLayers(result.scores, options_.scoring);
  total_ = options_.space.MaxTried(result.dense_layers.size()) + 2;
  const LayerPolicy start = LayerPolicy::Default(model_name_, weights_, shape_);
  PolicySearch search({.start = start,
                       .model = shape_,
                       .shape = ShapeOf(shape_),
                       .dense_layers = result.dense_layers,
                       .context_tokens = options_.text.context_tokens,
                       .limits = options_.limits,
                       .space = options_.space},
                      [&](const LayerPolicy& policy, const std::string& step) {
                        return Measure(windows_, policy, step);
                      });
  TS_ASSIGN_OR_RETURN(result.search, search.Run());
  TS_RETURN_IF_ERROR(CloseWindows(windows_));
  const MeasuredPolicy& chosen = result.search.measured[result.search.chosen];
  done_ = total_ - 2;
  TS_ASSIGN_OR_RETURN(result.held_out, Measure(held_out_windows_, chosen.policy, "held out"));
  TS_ASSIGN_OR_RETURN(result.default_held_out, Measure(held_out_windows_, start, "held out"));
  TS_RETURN_IF_ERROR(CloseWindows(held_out_windows_));
  result.meets_limits = MeetsLimits(chosen, result.search.limits);
  result.policy = chosen.policy;
  result.policy.calibration = std::make_shared<const CalibrationEvidence>(Evidence(result));
  return result;
}

CalibrationEvidence Calibration::Evidence(const CalibrationResult& result) const {
  const SearchResult& search = result.search;
  const MeasuredPolicy& chosen = search.measured[search.chosen];
  CalibrationEvidence evidence;
  evidence.tool = options_.tool;
  evidence.simd = std::string(ToString(DetectSimdLevel()));
  evidence.policy = chosen.policy.fingerprint();
  evidence.texts = texts_;
  evidence.held_out_texts = held_out_texts_;
  evidence.context_tokens = options_.text.context_tokens;
  evidence.decode_tokens = options_.text.decode_tokens;
  evidence.windows = options_.text.windows;
  evidence.last_queries = options_.scoring.last_queries;
  evidence.max_quantized_layers = options_.scoring.max_quantized_layers;
  evidence.alpha = options_.scoring.alpha;
  evidence.score_threshold = options_.scoring.threshold;
  evidence.scores = result.scores;
  evidence.max_device_bytes = search.limits.device_bytes;
  evidence.max_fetched_bytes = search.limits.fetched_bytes;
  evidence.max_kl = search.limits.kl;
  evidence.fetched_bytes = chosen.cost.fetched_bytes;
  evidence.device_bytes = chosen.cost.device_bytes;
  evidence.held_out = QualityOf(result.held_out);
  evidence.default_held_out = QualityOf(result.default_held_out);
  for (const MeasuredPolicy& tried : search.measured) {
    evidence.tried.push_back({.step = tried.step,
                              .configuration = tried.policy.Summary(),
                              .fetched_bytes = tried.cost.fetched_bytes,
                              .device_bytes = tried.cost.device_bytes,
                              .kl = tried.kl(),
                              .perplexity_ratio = tried.quality.perplexity_ratio.mean,
                              .recall = tried.mean_recall()});
  }
  return evidence;
}

}  // namespace tailor
