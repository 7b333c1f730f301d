#include "worker/quality/prepared_window.h"

#include "common/status.h"

namespace tailor {

absl::StatusOr<std::unique_ptr<PreparedWindow>> PreparedWindow::Prepare(
    MeasuredModel& model, const std::string& name, std::vector<TokenId> window,
    const TextOptions& options, const DensePreferenceOptions& scoring, const Progress& progress) {
  TS_CHECK(static_cast<int64_t>(window.size()) == options.WindowTokens());
  std::unique_ptr<PreparedWindow> made(new PreparedWindow(model, name, std::move(window), options));
  TS_ASSIGN_OR_RETURN(made->prompt_, model.Open(name, CacheMode::kHybrid, made->tokens()));
  const auto& ids = made->window_;
  TS_RETURN_IF_ERROR(model.RunPrefill({ids.begin(), ids.begin() + options.context_tokens},
                                      *made->prompt_, [&](int64_t done, int64_t work) {
                                        return progress(
                                            absl::StrCat("prefill ", 100 * done / work, "%"));
                                      }));
  TS_RETURN_IF_ERROR(made->RunFull(scoring, progress));
  return made;
}

std::string PreparedWindow::TokenOf(int64_t position) const {
  return absl::StrCat("token ", position - options_.context_tokens + 1, " of ",
                      options_.decode_tokens);
}

absl::Status PreparedWindow::RunFull(const DensePreferenceOptions& scoring,
                                     const Progress& progress) {
  TS_ASSIGN_OR_RETURN(
      auto full, model_.Fork(*prompt_, name_ + "/full", CacheMode::kFull, model_.policy, tokens()));
  DensePreferenceProbe probe(model_.backend.get(), model_.pool.shape(), model_.model.shape.q_heads,
                             tokens(), scoring);
  full->set_probe(&probe);
  for (int64_t i = options_.context_tokens; i < tokens(); ++i) {
    TS_RETURN_IF_ERROR(progress(TokenOf(i)));
    TS_RETURN_IF_ERROR(model_.Step(window_[i], model_.policy, *full));
    const auto logits = model_.logits();
    full_logits_.emplace_back(logits.begin(), logits.end());
  }
  scores_ = probe.Scores();
  return model_.store->CloseSequence(full->handle());
}

absl::StatusOr<WindowQuality> PreparedWindow::Measure(const LayerPolicy& layers,
                                                      const Progress& progress) {
  TS_ASSIGN_OR_RETURN(
      auto cache, model_.Fork(*prompt_, name_ + "/tried", CacheMode::kHybrid, layers, tokens()));
  AttentionProbe probe(model_.backend.get(), layers, CacheMode::kHybrid, model_.model.shape);
  cache->set_probe(&probe);
  WindowQuality quality;
  std::vector<double> full, method;
  for (int64_t i = options_.context_tokens; i < tokens(); ++i) {
    TS_RETURN_IF_ERROR(progress(TokenOf(i)));
    TS_RETURN_IF_ERROR(model_.Step(window_[i], layers, *cache));
    LogProbabilities(full_logits_[i - options_.context_tokens], &full);
    LogProbabilities(model_.logits(), &method);
    quality.Add(full, method, window_[i + 1]);
  }
  quality.layers = probe.layers();
  bytes_fetched_ = cache->totals().bytes_fetched;
  TS_RETURN_IF_ERROR(model_.store->CloseSequence(cache->handle()));
  return quality;
}

}  // namespace tailor
