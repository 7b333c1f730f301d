// Teacher-forced comparison with the full cache over windows of long text. ALGORITHM §6. A window
// is `context_tokens` tokens, prefilled once, and `decode_tokens` more that every method is fed one
// by one, whatever it would have said; each of them yields a next-token distribution to compare.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "worker/quality/attention_probe.h"
#include "worker/quality/methods.h"
#include "worker/quality/statistics.h"

namespace tailor {

struct TextOptions {
  int64_t context_tokens = 3500;
  int64_t decode_tokens = 128;
  int windows = 4;  // of each text

  int64_t WindowTokens() const { return context_tokens + decode_tokens + 1; }  // + the last target
};

// Errors: InvalidArgument when a window is longer than the model's context.
absl::Status CheckWindow(const TextOptions& options, const LlamaHyperparameters& model);

// `windows` windows, evenly spread over the text, none overlapping; each begins with `bos` if the
// model expects one. Errors: InvalidArgument when the text is too short, saying what would fit.
absl::StatusOr<std::vector<std::vector<TokenId>>> CutWindows(std::span<const TokenId> text,
                                                             const TextOptions& options,
                                                             std::optional<TokenId> bos);

// log softmax, in double.
void LogProbabilities(std::span<const float> logits, std::vector<double>* out);

// One method in one window: sums over the decoded tokens.
struct WindowQuality {
  int64_t tokens = 0, agreements = 0;  // agreements: both distributions have the same largest token
  double kl = 0;                       // sum over v of p_full(v) log(p_full(v) / p(v)), nats
  double nll_full = 0, nll = 0;        // -log p(the text's next token)
  std::vector<LayerQuality> layers;    // empty for a full cache

  // One more token: log probabilities [vocab] of both, and the text's own next token.
  void Add(std::span<const double> full, std::span<const double> method, TokenId next);
  nlohmann::json ToJson() const;
  static absl::StatusOr<WindowQuality> FromJson(const nlohmann::json& record);
};

// Every method of `methods` beside a full cache, in step. `seed` serves methods that draw lots.
absl::StatusOr<std::vector<WindowQuality>> MeasureWindow(
    MeasuredModel& model, std::span<const Method* const> methods, std::span<const TokenId> window,
    const TextOptions& options, uint64_t seed,
    const std::function<absl::Status(const std::string&)>& progress);

struct TextSummary {
  int64_t windows = 0, tokens = 0;
  Spread kl;  // nats a token; windows are the independent values
  Spread agreement;
  Spread perplexity_full;   // e^mean NLL; the error to first order
  Spread perplexity_ratio;  // method / full, likewise
  std::vector<LayerQuality> layers;
};
// Precondition: not empty; windows have the same number of tokens.
TextSummary Summarise(std::span<const WindowQuality> windows);

}  // namespace tailor
