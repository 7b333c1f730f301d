#include "worker/quality/text_quality.h"

#include <algorithm>
#include <cmath>

#include "common/status.h"

namespace tailor {
namespace {

using nlohmann::json;

struct Contestant {
  MethodRun run;
  std::unique_ptr<AttentionProbe> probe;  // null for a full cache
};

absl::StatusOr<std::vector<Contestant>> StartAll(MeasuredModel& model,
                                                 std::span<const Method* const> methods,
                                                 const SequenceCache& prompt, int64_t tokens,
                                                 uint64_t seed) {
  std::vector<Contestant> contestants;
  for (const Method* method : methods) {
    const std::string name = absl::StrCat("method ", contestants.size());
    TS_ASSIGN_OR_RETURN(MethodRun run,
                        MethodRun::Start(model, *method, prompt, name, tokens, seed));
    std::unique_ptr<AttentionProbe> probe;
    if (method->mode != CacheMode::kFull) {
      probe = std::make_unique<AttentionProbe>(model.backend.get(), run.layers(), method->mode,
                                               model.model.shape);
      run.cache().set_probe(probe.get());
    }
    contestants.push_back({std::move(run), std::move(probe)});
  }
  return contestants;
}

// e^mean with its error to first order.
Spread Exponential(const Spread& log) {
  Spread out = {.mean = std::exp(log.mean), .standard_error = std::nullopt};
  if (log.standard_error) out.standard_error = out.mean * *log.standard_error;
  return out;
}

}  // namespace

absl::Status CheckWindow(const TextOptions& options, const LlamaHyperparameters& model) {
  if (options.WindowTokens() <= model.context_tokens) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "a text window has ", options.WindowTokens(),
      " tokens (context, decoded, one target), the model's context is ", model.context_tokens));
}

absl::StatusOr<std::vector<std::vector<TokenId>>> CutWindows(std::span<const TokenId> text,
                                                             const TextOptions& options,
                                                             std::optional<TokenId> bos) {
  const int64_t from_text = options.WindowTokens() - (bos ? 1 : 0);
  const auto tokens = static_cast<int64_t>(text.size());
  if (tokens < from_text * options.windows) {
    return absl::InvalidArgumentError(absl::StrCat("text has ", tokens, " tokens, ",
                                                   options.windows, " windows of ", from_text,
                                                   " need ", from_text * options.windows));
  }
  std::vector<std::vector<TokenId>> windows;
  for (int w = 0; w < options.windows; ++w) {
    const auto part = text.subspan(w * (tokens / options.windows), from_text);
    std::vector<TokenId>& window = windows.emplace_back();
    if (bos) window.push_back(*bos);
    window.insert(window.end(), part.begin(), part.end());
  }
  return windows;
}

absl::StatusOr<std::vector<WindowQuality>> MeasureWindow(
    MeasuredModel& model, std::span<const Method* const> methods, std::span<const TokenId> window,
    const TextOptions& options, uint64_t seed,
    const std::function<absl::Status(const std::string&)>& progress) {
  TS_CHECK(static_cast<int64_t>(window.size()) == options.WindowTokens());
  const int64_t total = options.context_tokens + options.decode_tokens;
  TS_ASSIGN_OR_RETURN(auto prompt, model.Open("prompt", CacheMode::kHybrid, total));
  const auto context = window.first(options.context_tokens);
  TS_RETURN_IF_ERROR(
      model.RunPrefill({context.begin(), context.end()}, *prompt, [&](int64_t done, int64_t work) {
        return progress(absl::StrCat("prefill ", 100 * done / work, "%"));
      }));
  TS_ASSIGN_OR_RETURN(MethodRun yardstick,
                      MethodRun::Start(model, FullMethod(), *prompt, "yardstick", total, seed));
  TS_ASSIGN_OR_RETURN(auto contestants, StartAll(model, methods, *prompt, total, seed));
  std::vector<WindowQuality> out(methods.size());
  std::vector<double> full, method;
  for (int64_t i = options.context_tokens; i < total; ++i) {
    TS_RETURN_IF_ERROR(progress(
        absl::StrCat("token ", i - options.context_tokens + 1, " of ", options.decode_tokens)));
    TS_RETURN_IF_ERROR(yardstick.Step(window[i]));
    LogProbabilities(model.logits(), &full);
    for (size_t m = 0; m < contestants.size(); ++m) {
      TS_RETURN_IF_ERROR(contestants[m].run.Step(window[i]));
      LogProbabilities(model.logits(), &method);
      out[m].Add(full, method, window[i + 1]);
    }
  }
  for (size_t m = 0; m < contestants.size(); ++m) {
    if (contestants[m].probe != nullptr) out[m].layers = contestants[m].probe->layers();
    TS_RETURN_IF_ERROR(contestants[m].run.Close());
  }
  TS_RETURN_IF_ERROR(yardstick.Close());
  TS_RETURN_IF_ERROR(model.store->CloseSequence(prompt->handle()));
  return out;
}

void LogProbabilities(std::span<const float> logits, std::vector<double>* out) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float l : logits) sum += std::exp(l - largest);
  out->resize(logits.size());
  for (size_t v = 0; v < logits.size(); ++v) (*out)[v] = logits[v] - largest - std::log(sum);
}

void WindowQuality::Add(std::span<const double> full, std::span<const double> method,
                        TokenId next) {
  for (size_t v = 0; v < full.size(); ++v) kl += std::exp(full[v]) * (full[v] - method[v]);
  const auto best = [](std::span<const double> p) {
    return std::max_element(p.begin(), p.end()) - p.begin();
  };
  agreements += best(full) == best(method);
  nll_full -= full[next];
  nll -= method[next];
  ++tokens;
}

json WindowQuality::ToJson() const {
  json out = {{"tokens", tokens}, {"agreements", agreements}, {"kl", kl}, {"nll_full", nll_full},
              {"nll", nll},       {"layers", json::array()}};
  for (const LayerQuality& layer : layers) {
    out["layers"].push_back(
        {layer.recall_sum, layer.recall_worst, layer.error_sum, layer.heads, layer.steps});
  }
  return out;
}

absl::StatusOr<WindowQuality> WindowQuality::FromJson(const json& record) {
  WindowQuality out;
  try {
    record.at("tokens").get_to(out.tokens);
    record.at("agreements").get_to(out.agreements);
    record.at("kl").get_to(out.kl);
    record.at("nll_full").get_to(out.nll_full);
    record.at("nll").get_to(out.nll);
    for (const json& layer : record.at("layers")) {
      out.layers.push_back({.recall_sum = layer.at(0),
                            .recall_worst = layer.at(1),
                            .error_sum = layer.at(2),
                            .heads = layer.at(3),
                            .steps = layer.at(4)});
    }
  } catch (const json::exception& e) {
    return absl::DataLossError(absl::StrCat("window record is damaged: ", e.what()));
  }
  if (out.tokens < 1) return absl::DataLossError("window record has no tokens");
  return out;
}

TextSummary Summarise(std::span<const WindowQuality> windows) {
  std::vector<double> kl, agreement, nll_full, log_ratio;
  TextSummary out;
  out.windows = static_cast<int64_t>(windows.size());
  for (const WindowQuality& window : windows) {
    const auto tokens = static_cast<double>(window.tokens);
    kl.push_back(window.kl / tokens);
    agreement.push_back(static_cast<double>(window.agreements) / tokens);
    nll_full.push_back(window.nll_full / tokens);
    log_ratio.push_back((window.nll - window.nll_full) / tokens);
    out.tokens += window.tokens;
    out.layers.resize(window.layers.size());
    for (size_t l = 0; l < window.layers.size(); ++l) out.layers[l].Add(window.layers[l]);
  }
  out.kl = SpreadOf(kl);
  out.agreement = SpreadOf(agreement);
  out.perplexity_full = Exponential(SpreadOf(nll_full));
  out.perplexity_ratio = Exponential(SpreadOf(log_ratio));
  return out;
}

}  // namespace tailor
