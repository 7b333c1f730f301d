// START HERE for `tailor calibrate`: from a model and texts to a policy within limits, with the
// evidence for it. Scores layers (ALGORITHM §1), searches over policies (policy_search.h) on some
// windows of the texts, and measures what it chose on windows that the search did not see.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/text/tokenizer.h"
#include "worker/quality/policy_search.h"
#include "worker/quality/prepared_window.h"
#include "worker/quality/result_log.h"

namespace tailor {

struct CalibrationOptions {
  std::vector<std::filesystem::path> texts;
  std::vector<std::filesystem::path> held_out;  // empty: the last of each text's windows
  // More windows and decoded tokens tell closer policies apart; the time of a try grows with both,
  // memory with windows * context_tokens.
  TextOptions text = {.context_tokens = 3500, .decode_tokens = 64, .windows = 4};
  DensePreferenceOptions scoring;  // last_queries: at most the decoded tokens
  CalibrationLimits limits;        // none: the default policy's bytes
  SearchSpace space;
  int threads = 0;
  std::filesystem::path out;
  std::string tool;  // version, for the evidence
};

struct CalibrationResult {
  DensePreferenceOptions scoring;     // as used
  std::vector<double> scores;         // [layers], mean over windows
  std::vector<int32_t> dense_layers;  // by the rule of §1, the largest score first
  SearchResult search;
  TextSummary held_out, default_held_out;  // of the chosen policy, and of the default one
  bool meets_limits = false;               // on the calibration windows
  LayerPolicy policy;                      // the chosen one, with its evidence
};

// Every measured (policy, window) is kept in `out`/measured, whatever the limits: an interrupted
// run goes on, and one with other limits measures only what the first did not.
class Calibration {
 public:
  // Reads and tokenizes, so that mistakes show before the weights are loaded. Errors: as
  // Evaluation::Plan.
  static absl::StatusOr<std::unique_ptr<Calibration>> Plan(std::unique_ptr<ModelFile> file,
                                                           const CalibrationOptions& options);
  // Once. Errors: ResourceExhausted; what `progress` answers when it is not OK.
  absl::StatusOr<CalibrationResult> Run(const ProgressFn& progress);

 private:
  struct Window {
    std::string id;
    std::vector<TokenId> ids;
    std::unique_ptr<PreparedWindow> prepared;  // once something has to be measured
  };
  Calibration(std::unique_ptr<ModelFile> file, const CalibrationOptions& options);
  absl::Status CutTexts();
  absl::Status ReadLog();
  absl::StatusOr<PreparedWindow*> Prepared(Window& window);
  absl::StatusOr<std::vector<double>> ScoresOf(Window& window);
  absl::StatusOr<std::vector<double>> MeanScores();
  absl::StatusOr<TextSummary> Measure(std::vector<Window>& windows, const LayerPolicy& policy,
                                      const std::string& step);
  absl::StatusOr<WindowQuality> MeasureWindow(Window& window, const LayerPolicy& policy);
  absl::Status CloseWindows(std::vector<Window>& windows);
  CalibrationEvidence Evidence(const CalibrationResult& result) const;
  absl::Status Show(const std::string& what) const;

  std::unique_ptr<ModelFile> file_;  // until the model is loaded
  const std::string model_name_;
  const Fingerprint weights_;
  const LlamaHyperparameters shape_;
  CalibrationOptions options_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::vector<CalibrationEvidence::Text> texts_, held_out_texts_;
  std::unique_ptr<MeasuredModel> model_;            // loaded when something has to be measured
  std::vector<Window> windows_, held_out_windows_;  // gone before the model
  std::optional<ResultLog> log_;
  // Of a run.
  const ProgressFn* progress_ = nullptr;
  std::string step_;
  int64_t done_ = 0, total_ = 0;  // policies
};

}  // namespace tailor
