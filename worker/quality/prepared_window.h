// One text window, prefilled once and decoded once by the full cache, on which any layer table can
// then be measured for the cost of its own decode steps: what a search over policies needs.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "worker/quality/dense_preference.h"
#include "worker/quality/measured_model.h"
#include "worker/quality/text_quality.h"

namespace tailor {

class PreparedWindow {
 public:
  using Progress = std::function<absl::Status(const std::string&)>;

  // `model` outlives the window; its pool has an index for every layer that a measured table leaves
  // sparse. `name` is unique in the store. Keeps the full cache's logits: decode_tokens * vocab
  // floats. `window` has options.WindowTokens() tokens. Errors: ResourceExhausted; what `progress`
  // answers when it is not OK.
  static absl::StatusOr<std::unique_ptr<PreparedWindow>> Prepare(
      MeasuredModel& model, const std::string& name, std::vector<TokenId> window,
      const TextOptions& options, const DensePreferenceOptions& scoring, const Progress& progress);

  // `layers` against the full cache: what MeasureWindow gives its hybrid method, bit for bit.
  absl::StatusOr<WindowQuality> Measure(const LayerPolicy& layers, const Progress& progress);
  // Dense preference, [layers].
  const std::vector<double>& scores() const { return scores_; }
  // Rows fetched by the last Measure, in bytes: what PolicyCost::fetched_bytes predicts a token.
  int64_t bytes_fetched() const { return bytes_fetched_; }
  // Gives the window's pages back to the store.
  absl::Status Close() { return model_.store->CloseSequence(prompt_->handle()); }

 private:
  PreparedWindow(MeasuredModel& model, const std::string& name, std::vector<TokenId> window,
                 const TextOptions& options)
      : model_(model), name_(name), window_(std::move(window)), options_(options) {}
  absl::Status RunFull(const DensePreferenceOptions& scoring, const Progress& progress);
  std::string TokenOf(int64_t position) const;  // for progress
  int64_t tokens() const { return options_.context_tokens + options_.decode_tokens; }

  MeasuredModel& model_;
  const std::string name_;
  const std::vector<TokenId> window_;
  const TextOptions options_;
  std::unique_ptr<SequenceCache> prompt_;
  std::vector<std::vector<float>> full_logits_;  // [decode_tokens][vocab]
  std::vector<double> scores_;
  int64_t bytes_fetched_ = 0;
};

}  // namespace tailor
